"""Each label from each side, what blocks a verdict, and the winner the engine names."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngpt.campaign.analysis.statistics import PairedDifference, paired_difference
from ngpt.campaign.analysis.verdict import Label, judge, judge_campaign
from ngpt.campaign.definition import Campaign, Direction, Method, Rule

LRS = (0.01, 0.03, 0.1)


def rule(predicted: Direction = "lower", smallest: float = 0.01, seeds: int = 3) -> Rule:
    return Rule(metric="final_val_loss", predicted=predicted, smallest_effect=smallest, unit="nats", seeds=seeds)


def around(mean: float, half: float, n: int = 5) -> PairedDifference:
    return PairedDifference(mean, half * math.sqrt(n) / 2.776, n, mean - half, mean + half, None, None, 0.5)


CASES = [
    (-0.030, 0.010, "supported", "refuted"),
    (-0.010, 0.005, "supported", "refuted"),  # exactly the smallest effect; seen from "higher", the other side
    (-0.008, 0.001, "refuted", "refuted"),  # real, but within what does not matter
    (-0.008, 0.006, "inconclusive", "refuted"),  # real, perhaps large enough
    (-0.030, 0.040, "inconclusive", "inconclusive"),  # large, perhaps nothing
    (-0.030, 0.030, "inconclusive", "inconclusive"),  # an interval that touches zero contains it
    (0.000, 0.010, "refuted", "refuted"),  # exactly within
    (0.000, 0.020, "inconclusive", "inconclusive"),
    (0.000, 0.000, "refuted", "refuted"),  # the same numbers in both arms
    (-0.030, 0.000, "supported", "refuted"),
]


@pytest.mark.parametrize(("mean", "half", "lower", "higher"), CASES)
def test_judge_from_both_sides(mean: float, half: float, lower: str, higher: str) -> None:
    for sign in (1, -1):
        d = around(sign * mean, half)
        labels = [judge(rule(predicted), d).label for predicted in ("lower", "higher")]
        assert labels == [lower, higher][::sign]


def test_the_reason_is_a_sentence_with_the_numbers() -> None:
    assert judge(rule(), around(-0.03, 0.01)).reason == (
        "final_val_loss differs from the baseline by -0.03 nats (95% interval -0.04 to -0.02, 5 seeds): "
        "lower as predicted, by at least the 0.01 nats that matter."
    )
    undecided = judge(rule(), around(-0.03, 0.04))
    assert undecided.reason.endswith(f"about {undecided.seeds_needed} seeds would decide.")
    never = judge(rule(), around(-0.0099999, 0.04))
    assert never.seeds_needed is None and never.reason.endswith("not even 10,000 seeds would decide.")


def test_too_few_seeds_decide_nothing() -> None:
    verdict = judge(rule(seeds=9), around(-0.03, 0.01), n_missing=2)
    assert (verdict.label, verdict.seeds_needed) == ("inconclusive", 9)
    assert "5 seeds" in verdict.reason and "9 complete pairs" in verdict.reason and "2 of the arm's" in verdict.reason
    verdict = judge(rule(seeds=5), None, n_missing=5)
    assert (verdict.label, verdict.effect, verdict.seeds_needed) == ("inconclusive", None, 5)
    assert "fewer than 2" in verdict.reason and "5 of the arm's" in verdict.reason


def test_missing_runs_and_noise_block_support_and_nothing_else() -> None:
    good, bad = around(-0.03, 0.01), around(0.03, 0.01)
    missing = judge(rule(), good, n_missing=1)
    assert (missing.label, missing.seeds_needed) == ("inconclusive", None) and "1 of the arm's" in missing.reason
    noise = judge(rule(), good, distinguishable=False)
    assert (noise.label, noise.seeds_needed) == ("inconclusive", 6) and "noise" in noise.reason
    assert judge(rule(), bad, n_missing=1, distinguishable=False).label == "refuted"


@settings(max_examples=200, deadline=None, database=None)
@given(st.floats(-1, 1), st.floats(0, 1), st.integers(2, 20), st.integers(0, 2), st.booleans())
def test_support_implies_its_definition(
    mean: float, half: float, n: int, n_missing: int, distinguishable: bool
) -> None:
    d = around(mean, half, n)
    lower, higher = (
        judge(rule(predicted), d, n_missing=n_missing, distinguishable=distinguishable)
        for predicted in ("lower", "higher")
    )
    assert not (lower.label == "supported" and higher.label == "supported")
    if lower.label == "supported":
        assert d.t_high < 0 and mean <= -0.01 and n >= 3 and n_missing == 0 and distinguishable
        assert higher.label == "refuted"
    for verdict in (lower, higher):
        assert verdict.reason.endswith(".") and verdict.reason.count("\n") == 0
        if verdict.label != "inconclusive":
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


def winner_of(table: np.ndarray, rule: Rule, baseline: int = 0, resamples: int = 0) -> int | None:
    """The column that wins against the baseline's, every rate in the middle of its grid."""
    arms = table.shape[1]
    campaign = Campaign(
        name="table", title="", question="?", claim="", rule=rule, baselines=(str(baseline),),
        methods=tuple(Method(name=str(arm), fields={}, lrs=LRS) for arm in range(arms)),
    )  # fmt: skip
    rates = {str(arm): LRS[1] for arm in range(arms)}
    _, winner = judge_campaign(campaign, table, rates, np.random.default_rng(0), resamples=resamples)
    return None if winner is None else int(winner)


@pytest.mark.parametrize(
    ("effects", "predicted", "winner"),
    [
        ((0.0, -0.05, -0.08, 0.2), "lower", 2),
        ((0.0, -0.05, -0.08, 0.2), "higher", None),  # a cost that is shown is no win
        ((0.0, -0.005, 0.0, 0.2), "lower", None),  # distinguishable, but too small to matter
        ((0.0, 0.0, 0.0, 0.0), "lower", None),
        ((0.0,), "lower", None),
    ],
)
def test_the_winner_is_the_best_supported_contrast(
    effects: tuple[float, ...], predicted: Direction, winner: int | None
) -> None:
    assert winner_of(quiet_table(*effects), rule(predicted)) == winner


def test_a_survivor_is_not_named() -> None:
    table = quiet_table(-0.08, -0.05, 0.0)
    table[4, 0] = math.nan
    assert winner_of(table, rule(), baseline=2) == 1


def test_the_bootstrap_never_decides() -> None:
    table, generator = quiet_table(0.0, -0.05, 0.02), np.random.default_rng(0)
    assert winner_of(table, rule(), resamples=50) == winner_of(table, rule()) == 1
    d = paired_difference(table[:, 1], table[:, 0], generator, resamples=50)
    bare = paired_difference(table[:, 1], table[:, 0], generator, resamples=0)
    assert judge(rule(), d).reason == judge(rule(), bare).reason


@pytest.mark.parametrize(("mean", "label"), [(-0.03, "supported"), (0.03, "refuted"), (0.0, "refuted")])
def test_a_rate_at_the_edge_of_its_grid_takes_the_verdict_that_it_could_overturn(mean: float, label: Label) -> None:
    plain = judge(rule(), around(mean, 0.005))
    assert plain.label == label
    other: Label = "refuted" if label == "supported" else "supported"
    assert judge(rule(), around(mean, 0.005), edge={label: [], other: ["Adam"]}) == plain
    taken = judge(rule(), around(mean, 0.005), edge={label: ["Muon", "Adam"]})
    assert (taken.label, taken.effect, taken.seeds_needed) == ("inconclusive", plain.effect, None)
    assert taken.reason.startswith(plain.reason) and taken.reason.endswith(f"But: {taken.why}.")
    assert taken.why == f"would be {label}, but the best rate of Muon and Adam may lie beyond its grid"
