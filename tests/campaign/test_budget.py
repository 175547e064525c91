"""Campaigns at a fixed training time: runs end by the clock, steps and time are told apart, simplicity is judged."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_budget import CAMPAIGN as BY_THE_CLOCK
from mini_campaign import CAMPAIGN, carry_out
from test_report import made_up, report, row

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.analysis.pace import pace_of
from ngpt.campaign.analysis.statistics import PairedDifference, paired_difference
from ngpt.campaign.analysis.verdict import judge_simplicity
from ngpt.campaign.definition import AtScale, Method, Rule
from ngpt.errors import InputError
from ngpt.files import read_json
from ngpt.training.record import read_record


def places(folder: Path, *flags: str) -> list[str]:
    return ["--data", f"{folder}/text.txt", "--out", f"{folder}/runs", "--reports", f"{folder}/r", *flags]


@pytest.mark.drawn
def test_a_campaign_by_the_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{i} green bottles on a wall of {i * 5 % 11}\n" for i in range(400)))
    assert carry_out(BY_THE_CLOCK, places(tmp_path, "--dry-run")) == 0
    plan = capsys.readouterr().out
    assert "10 runs, 0 finished; 9.0 s a run (the time budget)" in plan
    assert "tuning  Adam" not in plan, "what has one rate is not tuned"
    for seconds in ("0", "-1", "nan"):
        with pytest.raises(InputError, match="--budget-seconds must be positive"):
            carry_out(BY_THE_CLOCK, places(tmp_path, "--budget-seconds", seconds))
    with pytest.raises(SystemExit):
        carry_out(BY_THE_CLOCK, places(tmp_path, "--steps", "9"))

    capsys.readouterr()
    flags = places(tmp_path, "--budget-seconds", "0.4")
    assert carry_out(BY_THE_CLOCK, flags) == 0
    printed = capsys.readouterr().out
    data = read_json(tmp_path / "r" / "data" / "mini.json")
    assert data["training"]["budget_seconds"] == 0.4 and len(data["runs"]) == data["planned_runs"] == 10
    assert {r["method"] for r in data["runs"] if r["stage"] == "tuning"} == {"Muon"}
    for r in data["runs"]:
        record = read_record(tmp_path / "runs" / r["run_id"])
        longest = 2 * 0.4 / record.timed_steps  # a step of this run, with room for an uneven machine
        assert abs(record.train_seconds - 0.4) < max(0.02 * 0.4, longest)
        assert (
            r["val"]["seconds"] == sorted(r["val"]["seconds"])
            and r["val"]["seconds"][-1] <= record.train_seconds + 0.001
        )
    assert len({r["steps"] for r in data["runs"]}) > 1, "a faster run makes more steps"
    text = (tmp_path / "r" / "MINI_REPORT.md").read_text()
    assert data["training"]["clock"] == "cpu" and data["jobs"] == 2, "all methods at once"
    assert "0.4 seconds of training" in text and "## Steps and time" in text and "--time-budget-seconds 0.4" in text
    assert "0.01, not tuned" in text and "**Which simplifications are free?**" in text
    assert (tmp_path / "r" / "figures" / "mini_pace.png").stat().st_size > 10_000

    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/record.json")}
    assert carry_out(BY_THE_CLOCK, flags) == 0 and capsys.readouterr().out == printed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and len(kept) == 10, "no finished run is repeated"
    with pytest.raises(InputError, match="end by the clock"):
        carry_out(BY_THE_CLOCK, places(tmp_path, "--reproduce"))


def test_the_budget_can_be_another_at_another_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question\n" * 100)
    campaign = dataclasses.replace(BY_THE_CLOCK, at_scale={"rung-1": AtScale(budget_seconds=3.5)})
    for flags, seconds in ((["--preset", "rung-1"], "3.5"), ([], "9.0"), (["--preset", "rung-2"], "9.0")):
        assert carry_out(campaign, [*places(tmp_path, "--dry-run"), *flags]) == 0
        assert f"{seconds} s a run (the time budget)" in capsys.readouterr().out
    assert campaign.at("rung-1").digest == campaign.digest
    with pytest.raises(ValueError, match="a training time, where runs end after their steps"):
        dataclasses.replace(campaign, budget_seconds=None)


def curve(step_seconds: float, slope: float, offset: float, every: int = 10, budget: float = 10.0) -> dict[str, Any]:
    """Validations every `every` steps of a run whose loss falls by `slope` a step."""
    steps = list(range(every, int(budget / step_seconds) + 1, every))
    return {
        "step": steps, "seconds": [step_seconds * s for s in steps], "loss": [5 + offset - slope * s for s in steps],
    }  # fmt: skip


def test_steps_and_time_are_told_apart() -> None:
    """A method twice as fast, each of whose steps gains a quarter less; 8 of 10 seconds before the decay."""
    base = [row("comparison", "Muon", 0.1, seed, 2.0, val=curve(0.05, 0.004, 0.0), steps=200) for seed in (1, 2, 3)]
    fast = [row("comparison", "Adam", 0.1, seed, 2.0, val=curve(0.025, 0.003, 0.0), steps=400) for seed in (2, 3, 9)]
    pace = pace_of(fast, base, undecayed_seconds=8.0)
    np.testing.assert_allclose(pace.steps_ratio, [2, 2])
    np.testing.assert_allclose(pace.at_equal_steps, [160 * 0.001] * 2)  # after 160 steps, 8 seconds of the baseline
    np.testing.assert_allclose(pace.at_equal_time, [160 * 0.004 - 320 * 0.003] * 2)
    itself = pace_of(base, base, undecayed_seconds=8.0)
    assert not itself.at_equal_steps.any() and not itself.at_equal_time.any()
    assert pace_of(fast, base, undecayed_seconds=0.3).steps_ratio.size == 0, "not two validations"


@pytest.mark.drawn
def test_runs_of_unequal_length_are_shown_as_far_as_all_have_come(tmp_path: Path) -> None:
    data = made_up()
    for r in data["runs"]:
        speed = (0.04 if r["method"] == "Muon" else 0.06) * (1 + 0.03 * (r["seed"] % 4))
        r["val"] = curve(speed, 0.01, 0.0)
        steps = [37 * i for i in range(1, 3 + r["seed"] % 2)]
        r["telemetry"] = {"step": steps, "rotation_hidden_rad": [0.1] * len(steps)}
    data["training"] |= {"budget_seconds": 10.0, "schedule": "wsd"}
    (fast, slow) = analyze(CAMPAIGN, data).summaries
    assert list(fast.telemetry["rotation_hidden_rad"][0]) == [37, 74]
    assert fast.pace is not None and slow.pace is not None and len(fast.pace.at_equal_time) == 4
    assert (fast.pace.at_equal_time < 0).all() and not fast.pace.at_equal_steps.any()
    text = report(data, tmp_path)
    assert "## Steps and time" in text and (tmp_path / "figures" / "mini_pace.png").exists()
    assert "## Steps and time" not in report(made_up(), tmp_path / "plain")


@pytest.mark.parametrize(
    ("schedule", "share", "ends"),
    [("wsd", 0.2, True), ("sqrt", 0.5, True), ("linear", 1.0, False), ("constant", 0.2, False), ("various", 1, False)],
)
def test_only_a_rate_that_is_constant_at_first_has_a_time_before_it_decays(
    tmp_path: Path, schedule: str, share: float, ends: bool
) -> None:
    data = made_up()
    for r in data["runs"]:
        r["val"] = curve(0.04 if r["method"] == "Muon" else 0.06, 0.01, 0.0)
    data["training"] |= {"budget_seconds": 10.0, "schedule": schedule, "decay_share": share}
    text = report(data, tmp_path)
    assert ("latest common time before the rate decays" in text) == ends
    assert ("the rate of the slower method has fallen further" in text) == (schedule == "linear")
    assert (f"{schedule} schedule with decay over the last {100 * share:.0f}% of the run" in text) == ends


# --- simplicity ------------------------------------------------------------------------------------------------------

RULE = Rule(metric="final_val_bpb", predicted="lower", smallest_effect=0.02, unit="bits per byte", seeds=5)


def difference(*values: float) -> PairedDifference:
    return paired_difference(np.array(values), np.zeros(len(values)))


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ((0.0, 0.001, -0.001, 0.002, -0.002), "a win"),
        ((-0.1, -0.12, -0.09, -0.11, -0.1), "a win"),
        ((0.005, 0.0051, 0.0052, 0.005, 0.0049), "a win"),  # a cost, and one that does not matter
        ((0.1, 0.12, 0.09, 0.11, 0.1), "not free"),
        ((0.1, -0.1, 0.05, -0.06, 0.02), "open"),
        ((0.0, 0.001, -0.001, 0.002), "open"),  # four seeds of five
    ],
)
def test_simplicity(values: tuple[float, ...], label: str) -> None:
    assert judge_simplicity(RULE, difference(*values)) == label


def test_a_simplification_whose_runs_are_missing_is_no_win() -> None:
    d = difference(0.0, 0.001, -0.001, 0.002, -0.002)
    assert judge_simplicity(RULE, d, n_missing=1) == "open"
    assert judge_simplicity(RULE, None) == "open"
    assert judge_simplicity(RULE, difference(0.1, 0.12, 0.09, 0.11, 0.1), n_missing=1) == "not free"


def test_what_costs_as_much_as_matters_is_rarely_called_a_win() -> None:
    """At a true cost of exactly the smallest effect, 2.5% of the intervals lie below it."""
    draw = np.random.default_rng(7)
    wins = sum(judge_simplicity(RULE, difference(*draw.normal(0.02, 0.01, 8))) == "a win" for _ in range(4000))
    assert 0.015 < wins / 4000 < 0.035


def test_the_report_judges_what_is_simpler_and_nothing_else(tmp_path: Path) -> None:
    muon, adam = CAMPAIGN.methods
    campaign = dataclasses.replace(
        CAMPAIGN, methods=(dataclasses.replace(muon, leaves_out="what Adam keeps"), adam), baselines=("Adam",)
    )
    assert campaign.digest != CAMPAIGN.digest, "what is judged decides the answer"
    ((method, _, label),) = analyze(campaign, made_up(gain=0.1)).simplifications
    assert (method.name, label) == ("Muon", "a win")
    ((method, _, label),) = analyze(campaign, made_up(gain=-0.1)).simplifications
    assert (method.name, label) == ("Muon", "not free")
    assert not analyze(CAMPAIGN, made_up()).simplifications


def test_grids_are_of_one_size_or_of_one_rate() -> None:
    muon, adam = CAMPAIGN.methods
    fixed = Method(name="fixed", fields={}, lrs=(0.1,))
    assert [arm.method for arm in dataclasses.replace(CAMPAIGN, methods=(muon, adam, fixed)).tuned_arms()] == [
        *["Muon"] * 3, *["Adam"] * 3,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="same size, or not at all"):
        dataclasses.replace(CAMPAIGN, methods=(muon, adam, Method(name="two", fields={}, lrs=(0.1, 0.2))))


@pytest.mark.parametrize(
    ("grid", "word"), [((0, 1, 2), "better"), ((1,), "better"), ((1, 2), "undecided")], ids=str
)
def test_a_rate_that_is_part_of_the_method_is_no_edge_of_a_grid(grid: tuple[int, ...], word: str) -> None:
    """Adam's chosen rate is its middle one: inside a grid of three, the only one, at the edge of a grid of two."""
    muon, adam = (
        dataclasses.replace(method, lrs=tuple(method.lrs[i] for i in grid)) if method.name == "Adam" or len(grid) == 2
        else method
        for method in CAMPAIGN.methods
    )  # fmt: skip
    campaign = dataclasses.replace(CAMPAIGN, methods=(muon, adam))
    assert analyze(campaign, made_up(gain=0.2)).answers[0].verdict.word == word
