"""Each word from each side, what blocks a word, which prediction it confirms, and the winner the engine names."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngpt.campaign.analysis.statistics import PairedDifference
from ngpt.campaign.analysis.verdict import judge, judge_campaign, judge_simplicity
from ngpt.campaign.definition import Campaign, Method, Prediction, Rule, Word

LRS = (0.01, 0.03, 0.1)


def rule(predicted: Prediction = "lower", smallest: float = 0.01, seeds: int = 3) -> Rule:
    return Rule(metric="final_val_loss", predicted=predicted, smallest_effect=smallest, unit="nats", seeds=seeds)


def around(mean: float, half: float, n: int = 5) -> PairedDifference:
    return PairedDifference(mean, half * math.sqrt(n) / 2.776, n, mean - half, mean + half, 0.5)


SAME: Word = "no difference that matters"
CASES: list[tuple[float, float, Word]] = [
    (-0.030, 0.010, "better"),
    (-0.010, 0.005, "better"),  # exactly the smallest effect
    (-0.008, 0.001, SAME),  # real, but within what does not matter
    (-0.008, 0.006, "undecided"),  # real, perhaps large enough
    (-0.030, 0.040, "undecided"),  # large, perhaps nothing
    (-0.030, 0.030, "undecided"),  # an interval that touches zero contains it
    (0.000, 0.010, SAME),  # exactly within
    (0.000, 0.020, "undecided"),
    (0.000, 0.000, SAME),  # the same numbers in both arms
    (-0.030, 0.000, "better"),
]
CONFIRMS: dict[tuple[Word, Prediction], bool] = {
    ("better", "lower"): True, ("better", "higher"): False, ("better", "not lower"): False,
    ("better", "not higher"): True, ("worse", "not higher"): False, (SAME, "not higher"): True,
    ("worse", "lower"): False, ("worse", "higher"): True, ("worse", "not lower"): True,
    (SAME, "lower"): False, (SAME, "higher"): False, (SAME, "not lower"): True,
    ("undecided", "lower"): False, ("undecided", "higher"): False, ("undecided", "not lower"): False,
    ("undecided", "not higher"): False,
    ("better", "level"): False, ("worse", "level"): False, (SAME, "level"): True, ("undecided", "level"): False,
}  # fmt: skip


@pytest.mark.parametrize(("mean", "half", "word"), CASES)
def test_the_word_does_not_depend_on_the_prediction(mean: float, half: float, word: Word) -> None:
    for sign in (1, -1):
        turned: Word = {"better": "worse", "worse": "better"}.get(word, word) if sign < 0 else word  # type: ignore[assignment]
        for predicted in ("lower", "higher", "not lower", "not higher", "level", None):
            verdict = judge(rule(predicted), around(sign * mean, half))
            assert verdict.word == turned
            came_true = None if predicted is None else CONFIRMS[turned, predicted]
            if predicted == "not lower":
                came_true = came_true or sign * mean - half > -0.01  # no gain of that size in the interval
            if predicted == "not higher":
                came_true = came_true or sign * mean + half < 0.01
            assert verdict.confirmed == came_true
            clear = abs(mean) > half
            assert verdict.side == ("" if not clear else "lower" if sign * mean < 0 else "higher")


def test_the_reason_is_a_sentence_with_the_numbers() -> None:
    assert judge(rule(), around(-0.03, 0.01)).reason == (
        "final_val_loss differs by -0.03 nats (95% interval -0.04 to -0.02, 5 seeds): "
        "lower, on average by at least the 0.01 nats that matter."
    )
    small = judge(rule(), around(0.008, 0.001))
    assert small.why == "higher, but within the 0.01 nats that matter"
    assert judge(rule(), around(0.0, 0.001)).why == "within the 0.01 nats that matter"
    perhaps = judge(rule(), around(0.007, 0.006))
    assert perhaps.why == (
        f"higher, but perhaps by less than the 0.01 nats that matter; about {perhaps.seeds_needed} new seeds would "
        "have an even chance of deciding"
    )
    undecided = judge(rule(), around(-0.03, 0.04))
    assert undecided.why == (
        f"the interval contains zero and more than the 0.01 nats that matter; about {undecided.seeds_needed} new "
        "seeds would have an even chance of deciding"
    )
    never = judge(rule(), around(-0.02, 40.0))
    assert never.seeds_needed is None and never.reason.endswith("not even 10,000 seeds would be likely to decide.")
    advice = "the mean is so close to that limit that no number of seeds can be named"
    limit = judge(rule(), around(0.0099999, 0.006))
    assert limit.seeds_needed is None and limit.why == (
        f"higher, but perhaps by less than the 0.01 nats that matter; {advice}"
    )
    wide = judge(rule(), around(-0.0099999, 0.04))
    assert wide.seeds_needed is None and wide.why == (
        f"the interval contains zero and more than the 0.01 nats that matter; {advice}"
    )


def test_a_number_of_seeds_is_named_from_a_standard_error_below_the_limit() -> None:
    within, error = around(0.007, 0.006), around(0.007, 0.006).sd / math.sqrt(5)
    assert judge(rule(smallest=0.007 + 1.01 * error), within).seeds_needed
    assert judge(rule(smallest=0.007 + 0.99 * error), within).seeds_needed is None


@pytest.mark.parametrize("mean, half", [(0.004, 0.01), (0.0, 0.004)], ids=["undecided", "level"])
def test_a_doubt_about_a_gain_leaves_it_open_whether_there_is_none(mean: float, half: float) -> None:
    """A method whose best rate is at the edge of its grid might gain at a better one, however wide the interval."""
    doubts: dict[Word, list[str]] = {"worse": ["an edge"], "no difference that matters": ["an edge"]}
    assert judge(rule("not lower"), around(mean, half)).confirmed is True
    assert judge(rule("not lower"), around(mean, half), doubts=doubts).confirmed is False
    other: dict[Word, list[str]] = dict.fromkeys(("better", SAME), ["an edge of the baseline's"])
    assert judge(rule("not lower"), around(mean, half), doubts=other).confirmed is True, "it would only raise it"
    assert judge(rule("not lower"), around(mean, half), doubts=other, n_missing=1).confirmed is False


def test_too_few_seeds_decide_nothing() -> None:
    verdict = judge(rule(seeds=9), around(-0.03, 0.01), n_missing=2)
    assert (verdict.word, verdict.seeds_needed, verdict.confirmed) == ("undecided", 9, False)
    parts = ("5 seeds", "9 complete pairs", "runs are missing on 2 seeds")
    assert all(part in verdict.reason for part in parts)
    verdict = judge(rule(seeds=5), None, n_missing=3)
    assert (verdict.word, verdict.effect, verdict.seeds_needed) == ("undecided", None, 5)
    verdict = judge(rule(seeds=5), None, n_missing=5)
    assert (verdict.word, verdict.effect, verdict.seeds_needed) == ("undecided", None, None) and verdict.side == ""
    assert verdict.reason == f"{verdict.why}." and not verdict.why.endswith("."), "reports end it themselves"
    assert "fewer than 2" in verdict.reason and "runs are missing on 5 seeds" in verdict.reason
    assert judge(rule(None), None).confirmed is None
    assert judge(rule(seeds=7), around(-0.03, 0.01), n_missing=2).seeds_needed is None, "seven were run, and two lost"


def test_missing_runs_and_noise_block_words() -> None:
    good, bad, same = around(-0.03, 0.01), around(0.03, 0.01), around(0.0, 0.01)
    for difference, word in ((good, "better"), (same, SAME)):
        missing = judge(rule(), difference, n_missing=1)
        assert (missing.word, missing.seeds_needed, missing.confirmed) == ("undecided", None, False)
        assert missing.why == f"the numbers say {word}, but runs are missing on 1 seed"
    for difference in (good, bad):
        noise = judge(rule(), difference, distinguishable=False)
        assert (noise.word, noise.seeds_needed) == ("undecided", None) and "noise" in noise.reason
    diverges = judge(rule("higher"), bad, n_missing=1)
    assert diverges.word == "worse" and not diverges.confirmed, "a prediction is not confirmed by survivors"


@settings(max_examples=200, deadline=None, database=None)
@given(st.floats(-1, 1), st.floats(0, 1), st.integers(2, 20), st.integers(0, 2), st.booleans())
def test_a_word_implies_its_definition(
    mean: float, half: float, n: int, n_missing: int, distinguishable: bool
) -> None:
    d = around(mean, half, n)
    verdict = judge(rule("lower"), d, n_missing=n_missing, distinguishable=distinguishable)
    if verdict.word in ("better", "worse"):
        assert (d.t_high < 0 and mean <= -0.01) if verdict.word == "better" else (d.t_low > 0 and mean >= 0.01)
        assert n >= 3 and distinguishable
    assert not (verdict.word == "better" and n_missing)
    assert verdict.confirmed == (verdict.word == "better")
    assert verdict.reason.endswith(".") and verdict.reason.count("\n") == 0
    if verdict.word != "undecided":
        assert verdict.seeds_needed is None and n >= 3
    elif verdict.seeds_needed is not None:
        assert verdict.seeds_needed > n


@pytest.mark.parametrize(
    "change",
    [{"smallest_effect": 0.0}, {"smallest_effect": math.nan}, {"smallest_effect": math.inf}, {"seeds": 1},
     {"predicted": "better"}],
)  # fmt: skip
def test_a_rule_that_decides_nothing_is_refused(change: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "metric": "final_val_loss", "predicted": "lower", "smallest_effect": 0.01, "unit": "nats", "seeds": 3
    }  # fmt: skip
    with pytest.raises(ValueError):
        Rule(**{**fields, **change})  # type: ignore[arg-type]


def quiet_table(*effects: float) -> np.ndarray:
    draw = np.random.default_rng(1)
    return 3 + draw.normal(size=(5, 1)) + 0.001 * draw.normal(size=(5, len(effects))) + np.array(effects)


def winner_of(table: np.ndarray, rule: Rule, baseline: int = 0) -> int | None:
    """The column that wins against the baseline's, every rate in the middle of its grid."""
    arms = table.shape[1]
    campaign = Campaign(
        name="table", title="", question="?", claim="", rule=rule, baselines=(str(baseline),),
        methods=tuple(Method(name=str(arm), fields={}, lrs=LRS) for arm in range(arms)),
    )  # fmt: skip
    rates = {str(arm): LRS[1] for arm in range(arms)}
    _, winner = judge_campaign(campaign, table, rates)
    return None if winner is None else int(winner)


@pytest.mark.parametrize(
    ("effects", "predicted", "winner"),
    [
        ((0.0, -0.05, -0.08, 0.2), "lower", 2),
        ((0.0, -0.05, -0.08, 0.2), "higher", 2),  # better, though a cost was predicted
        ((0.0, -0.005, 0.0, 0.2), "lower", None),  # distinguishable, but too small to matter
        ((0.0, 0.0, 0.0, 0.0), "lower", None),
        ((0.0,), "lower", None),
    ],
)
def test_the_winner_is_the_best_of_what_is_better(
    effects: tuple[float, ...], predicted: Prediction, winner: int | None
) -> None:
    assert winner_of(quiet_table(*effects), rule(predicted)) == winner


def test_a_survivor_is_not_named() -> None:
    table = quiet_table(-0.08, -0.05, 0.0)
    table[4, 0] = math.nan
    assert winner_of(table, rule(), baseline=2) == 1


@pytest.mark.parametrize(("mean", "word"), [(-0.03, "better"), (0.03, "worse"), (0.0, SAME)])
def test_a_doubt_takes_the_word_that_it_is_about(mean: float, word: Word) -> None:
    plain = judge(rule(), around(mean, 0.005))
    assert plain.word == word
    other: Word = "worse" if word == "better" else "better"
    doubts = ["the best rate of Muon is at the edge of its grid", "the best rate of Adam is at the edge of its grid"]
    assert judge(rule(), around(mean, 0.005), doubts={word: [], other: doubts}) == plain
    taken = judge(rule(), around(mean, 0.005), doubts={word: doubts})
    assert (taken.word, taken.effect, taken.seeds_needed, taken.confirmed) == ("undecided", plain.effect, None, False)
    assert taken.reason.startswith(plain.reason) and taken.reason.endswith(f"But: {taken.why}.")
    assert taken.why == f"the numbers say {word}, but {doubts[0]} and {doubts[1]}"


def test_a_baseline_that_lost_runs_makes_no_method_worse() -> None:
    table = quiet_table(0.0, 0.08, 0.0)
    methods = tuple(Method(name=name, fields={}, lrs=LRS) for name in ("base", "a", "b"))
    campaign = Campaign(name="t", title="", question="?", claim="", rule=rule(), baselines=("base",), methods=methods)
    rates = dict.fromkeys(("base", "a", "b"), LRS[1])

    def words(missing: int | None) -> list[str]:
        values = table.copy()
        if missing is not None:
            values[4, missing] = math.nan
        return [a.verdict.word for a in judge_campaign(campaign, values, rates)[0]]

    assert words(None) == ["worse", SAME]
    assert words(1) == ["worse", SAME], "one that diverges is worse"
    assert words(0) == ["undecided", "undecided"]


def test_missing_runs_make_no_method_worse_by_chance() -> None:
    """Twenty methods like the baseline, each with one run missing: one is called worse in at most 5%, and noise."""
    draw, names = np.random.default_rng(3), [str(number) for number in range(21)]
    methods = tuple(Method(name=name, fields={}, lrs=LRS) for name in names)
    campaign = Campaign(name="t", title="", question="?", claim="", rule=rule(), baselines=("0",), methods=methods)
    rates, found = dict.fromkeys(names, LRS[1]), 0
    for _ in range(200):
        table = draw.normal(size=(10, 1)) + 0.03 * draw.normal(size=(10, 21))
        table[np.arange(20) % 10, np.arange(1, 21)] = math.nan
        answers, _ = judge_campaign(campaign, table, rates)
        found += any(answer.verdict.word == "worse" for answer in answers)
    assert found <= 200 * 0.05 + 2 * math.sqrt(200 * 0.05 * 0.95)


def borrowing() -> tuple[Campaign, np.ndarray]:
    """Return a campaign in which `late` takes the rates of `base`, both level with `other`, and its results."""
    base, other = (Method(name=name, fields={"optimizer": "muon"}, lrs=LRS, family="f") for name in ("base", "other"))
    late = Method(name="late", fields={"lazy_proj_freq": 20}, lrs=(), at_rates_of="base", family="f")
    campaign = Campaign(
        name="c", title="t", question="q?", claim="c", preset="tiny", methods=(other, base, late), baselines=("other",),
        rule=rule("level"), fields={}, comparison_seeds=5,
    )  # fmt: skip
    return campaign, quiet_table(0.0, 0.0, 0.0)


@pytest.mark.parametrize(("rate", "word"), [(0.03, SAME), (0.1, "undecided")])
def test_who_takes_a_rate_takes_the_doubts_about_it(rate: float, word: Word) -> None:
    campaign, table = borrowing()
    answers, _ = judge_campaign(campaign, table, {"other": 0.03, "base": rate, "late": rate})
    assert [answer.verdict.word for answer in answers] == [word, word]
    if word == "undecided":
        assert {answer.verdict.why for answer in answers} == {
            f"the numbers say {SAME}, but the best rate of base is at the edge of its grid"
        }


def test_who_takes_a_rate_takes_the_loss_of_runs_that_chose_it() -> None:
    campaign, table = borrowing()
    rates = dict.fromkeys(("other", "base", "late"), 0.03)
    answers, _ = judge_campaign(campaign, table, rates, lost_in_tuning={"base": 2})
    assert [answer.verdict.why.partition(", but ")[2] for answer in answers] == [
        "2 of the runs that tune base are missing"
    ] * 2


def test_what_is_simpler_wins_nothing_from_a_baseline_that_might_do_better() -> None:
    assert judge_simplicity(rule(), around(0.0, 0.004)) == "a win"
    assert judge_simplicity(rule(), around(0.0, 0.004), doubted=True) == "open"
    assert judge_simplicity(rule(), around(0.006, 0.002), doubted=True) == "not free"


def test_the_values_of_an_answer_are_the_contrast_on_each_seed() -> None:
    table = np.array([[3.0, 2.0], [3.0, 3.5], [3.0, 2.5], [math.nan, 1.0]])
    methods = tuple(Method(name=name, fields={}, lrs=LRS) for name in ("base", "a"))
    campaign = Campaign(name="t", title="", question="?", claim="", rule=rule(), baselines=("base",), methods=methods)
    (answer,), _ = judge_campaign(campaign, table, {})
    np.testing.assert_array_equal(answer.values, [-1.0, 0.5, -0.5, math.nan])
    assert (answer.agreeing, answer.seeds) == (2, 3)
