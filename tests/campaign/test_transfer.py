"""Studies of rates across widths: arms, what is computed from made-up losses, and a whole small study."""

import dataclasses
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.lr_transfer import STUDY
from experiments.widths import widths_sentence
from ngpt.campaign import engine
from ngpt.campaign.definition import Method
from ngpt.campaign.execution.collect import write_data
from ngpt.campaign.report.style import style
from ngpt.campaign.transfer.analysis import ANGLE, Estimate, Scaling, _scaling, find, jackknife, judge, lowest
from ngpt.campaign.transfer.command import TransferStudy
from ngpt.campaign.transfer.definition import ScalingRule, Transfer
from ngpt.campaign.transfer.report import _draw_best, _draw_scans, write_transfer_report
from ngpt.config import flatten

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import SMALL
from mini_untuned import SEEDS, collected

BEST, CURVATURE = 0.02, 0.05
"""true best angle at the base width in rad, and height of the parabola one e-fold away from it"""


def angle_of(study: Transfer, method: Method) -> float:
    """The angle by which an arm turns the vectors: the rate, for Adam times a tenth of the root of the width."""
    width = method.fields["n_embd"]
    return method.lrs[0] * (0.1 * math.sqrt(width) if method.name.startswith("Adam") else 1.0)


def data_of(study: Transfer, exponents: Mapping[str, float], *, noise: float = 0.0002) -> dict[str, Any]:
    """Collected data in which the best angle of a method is BEST (width / base)^exponent, 0 if not given."""

    def truth(method: Method) -> float:
        name = method.name.partition(f", {method.fields['n_embd']} wide")[0]
        best = BEST * (method.fields["n_embd"] / study.base) ** exponents.get(name, 0.0)
        return 2.0 + CURVATURE * math.log(angle_of(study, method) / best) ** 2

    def telemetry(method: Method) -> dict[str, list[float]]:
        """The first step turns further than the others."""
        return {"step": [1, 19, 38], ANGLE: [share * angle_of(study, method) for share in (7.0, 0.9, 1.1)]}

    return collected(study.at(study.preset), truth, noise=noise, telemetry=telemetry)


def by_method(found: list[Scaling]) -> dict[str, Scaling]:
    return {one.method: one for one in found}


# --- the arms --------------------------------------------------------------------------------------------------------


def test_arms_differ_in_width_heads_and_rates_and_in_nothing_else() -> None:
    campaign = STUDY.at("rung-1")
    configs = {arm.method: flatten(campaign.configure(arm, 0, {}, "rung-1")) for arm in campaign.arms()}
    assert len(configs) == len(STUDY.methods) * len(STUDY.widths) * len(STUDY.factors)
    for method in STUDY.methods:
        base = configs[f"{method}, 64 wide, lr {STUDY.methods[method].lr:g}"]
        for width in STUDY.widths:
            for lr in STUDY.rates(method, width):
                config = configs[f"{method}, {width} wide, lr {lr:g}"]
                different = {name for name, value in config.items() if base[name] != value}
                assert different <= {"n_embd", "n_head", "lr", "aux_lr"}
                assert config["n_embd"] == width == 32 * config["n_head"]
                assert config["aux_lr"] == pytest.approx(base["aux_lr"] * math.sqrt(64 / width), rel=1e-3)


def test_the_middle_of_the_grid_at_the_base_width_is_what_is_stated() -> None:
    for method, scaled in STUDY.methods.items():
        assert STUDY.rates(method, STUDY.base)[STUDY.factors.index(1.0)] == scaled.lr
        ends = STUDY.rates(method, 256)[0] / STUDY.rates(method, 64)[0]
        assert ends == pytest.approx(4.0**scaled.exponent, rel=1e-3)


@pytest.mark.parametrize("change, words", [
    ({"widths": (64, 32, 128)}, "multiples of 32"), ({"widths": (48, 64, 128)}, "multiples of 32"),
    ({"base": 96}, "with the base"), ({"factors": (0.5, 2.0, 4.0)}, "with 1"), ({"seeds": 2}, "takes three"),
    ({"rules": (ScalingRule(name="a", exponent=0.0, methods=("Lion",)),)}, "unknown methods"),
])  # fmt: skip
def test_a_study_that_makes_no_sense_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(STUDY, **change)


def test_another_rule_or_tolerance_is_another_study() -> None:
    other = dataclasses.replace(STUDY, tolerance=0.2), dataclasses.replace(STUDY, rules=STUDY.rules[:1])
    assert len({study.at("rung-1").digest for study in (STUDY, *other)}) == 3


# --- the numbers -----------------------------------------------------------------------------------------------------


RATES = np.log([0.01, 0.02, 0.04, 0.08, 0.16])


def test_the_lowest_point_of_a_parabola_is_found_between_the_rates() -> None:
    at, curvature = lowest(RATES, 3.0 + 0.7 * (RATES - math.log(0.025)) ** 2)
    assert math.exp(at) == pytest.approx(0.025) and curvature == pytest.approx(0.7)


def test_far_points_do_not_bend_the_parabola_and_near_ones_do() -> None:
    """Two points lie above the parabola through the other three, one of them far above."""
    parabola = 3.0 + 0.1 * (RATES - math.log(0.025)) ** 2
    near, far = parabola + [0, 0, 0, 0.02, 0], parabola + [0, 0, 0, 0, 0.5]
    assert math.exp(lowest(RATES, far)[0]) == pytest.approx(0.025)
    assert math.exp(lowest(RATES, near)[0]) < 0.0248
    assert math.exp(lowest(RATES, near, 0.0)[0]) == pytest.approx(0.025), "of the lowest and its neighbors alone"


@pytest.mark.parametrize("mean", [
    [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0], [2.0, math.nan, 1.0, 2.0, 3.0], [math.nan] * 5, [1.0] * 5,
    [0.91, 1.0, 1.0, 0.9, 0.95],
])  # fmt: skip
def test_no_lowest_point_at_an_end_or_beside_a_missing_run_or_where_the_parabola_has_none(mean: list[float]) -> None:
    assert all(map(math.isnan, lowest(RATES, np.array(mean))))


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    from scipy import stats

    values = np.array([1.0, 4.0, 2.0, 7.0, 3.5])
    estimate = jackknife(lambda kept: float(values[kept].mean()), 5, 0.05)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert estimate == Estimate(value=values.mean(), low=pytest.approx(low), high=pytest.approx(high))
    assert jackknife(lambda kept: math.nan if 2 not in kept else 1.0, 5, 0.05) is None


def test_exponents_are_found_of_the_angle_and_of_the_rate() -> None:
    found = by_method(find(STUDY, data_of(STUDY, {"Muon": 0.0, "geodesic, θ = lr": 0.5, "Adam": -0.25})))
    for method, angle, rate in (("Muon", 0.0, 0.0), ("geodesic, θ = lr", 0.5, 0.5), ("Adam", -0.25, -0.75)):
        one = found[method]
        of_angle, of_rate, check = one.exponents["angle"], one.exponents["rate"], one.check
        assert of_angle is not None and of_rate is not None and check is not None
        assert of_angle.value == pytest.approx(angle, abs=0.01) and of_rate.value == pytest.approx(rate, abs=0.01)
        assert of_angle.low < of_angle.value < of_angle.high and check.value == pytest.approx(angle, abs=0.02)
    assert [tested.state for tested in found["Muon"].tested] == ["holds"]
    assert [tested.state for tested in found["geodesic, θ = lr"].tested] == ["ruled out"]
    assert [tested.state for tested in found["Adam"].tested] == ["ruled out", "holds"]
    for scan in found["Adam"].scans:
        assert scan.best_angle is not None and scan.best_rate is not None
        assert scan.best_angle.value == pytest.approx(BEST * (scan.width / 64) ** -0.25, rel=0.02)
        assert scan.best_rate.value * 0.1 * math.sqrt(scan.width) == pytest.approx(scan.best_angle.value, rel=1e-3)


def test_the_cost_of_a_wrong_rule_is_what_the_parabola_says() -> None:
    found = by_method(find(STUDY, data_of(STUDY, {"Adam": -0.25}, noise=1e-9)))
    wrong, right = found["Adam"].tested
    assert wrong.costs.keys() == {32, 128, 256} == right.costs.keys()
    for width, cost in wrong.costs.items():
        other = right.costs[width]
        assert cost is not None and other is not None
        assert cost.value == pytest.approx(CURVATURE * (0.25 * math.log(width / 64)) ** 2, abs=1e-6)
        assert other.value == pytest.approx(0.0, abs=1e-6)


def test_noise_leaves_a_rule_open_and_a_best_rate_at_an_end_leaves_the_exponent_unknown() -> None:
    noisy = find(STUDY, data_of(STUDY, {}, noise=0.015))
    assert "open" in {tested.state for one in noisy for tested in one.tested}
    beyond = by_method(find(STUDY, data_of(STUDY, {"Muon": 1.5})))["Muon"]
    assert beyond.exponents == {"angle": None, "rate": None}
    assert beyond.scans[-1].best_rate is None is beyond.scans[-1].best_angle and beyond.scans[1].best_rate is not None
    assert [tested.state for tested in beyond.tested] == ["open"]


def test_a_missing_run_leaves_its_width_without_an_interval() -> None:
    data = data_of(STUDY, {})
    row = next(row for row in data["runs"] if row["method"] == "Muon, 128 wide, lr 0.035")
    del row["final_val_loss"]
    found = by_method(find(STUDY, data))
    assert found["Muon"].exponents["rate"] is None is not found["Adam"].exponents["rate"]


@pytest.mark.parametrize("low, high, state", [
    (-0.1, 0.1, "holds"), (0.05, 0.12, "holds"), (-0.2, 0.1, "open"), (0.01, 0.2, "open"), (0.05, 0.22, "ruled out"),
    (-0.4, -0.3, "ruled out"),
])  # fmt: skip
def test_the_states_of_a_rule(low: float, high: float, state: str) -> None:
    rule = ScalingRule(name="equal angles", exponent=0.0)
    assert judge(rule, Estimate(value=(low + high) / 2, low=low, high=high), 0.125) == state
    assert judge(rule, None, 0.125) == "open"


def test_joint_intervals_hold_as_often_as_they_say_and_tell_the_rules_apart() -> None:
    """In made-up studies as noisy as the published campaigns, where the best angle lies anywhere near the middle.

    noise: 0.0135 nats a run; curvatures of 0.07 nats per squared e-fold under Muon and 0.045 under Adam are those of
    published campaigns.
    """
    draw, studies, inside, held, ruled_out = np.random.default_rng(1), 100, 0, 0, 0
    for _ in range(studies):
        found = []
        for method in STUDY.methods:
            adam = method == "Adam"
            away, curvature = draw.uniform(-0.3, 0.3), 0.045 if adam else 0.07
            places = []
            for width in STUDY.widths:
                log_rates = np.log(STUDY.rates(method, width))
                losses = curvature * (log_rates - log_rates[2] - away) ** 2 + draw.normal(scale=0.0135, size=(SEEDS, 5))
                places.append((np.exp(log_rates) * (math.sqrt(width) if adam else 1.0), losses))
            found.append(_scaling(STUDY, method, places))
        exponents = [one.exponents["angle"] for one in found]
        inside += all(e is not None and e.low <= 0.0 <= e.high for e in exponents)
        held += found[0].tested[0].state == "holds"
        ruled_out += found[3].tested[1].state == "ruled out"
    assert 0.92 < inside / studies <= 1.0 and held / studies > 0.9 and ruled_out / studies > 0.9


# --- the report ------------------------------------------------------------------------------------------------------


@pytest.mark.drawn
def test_the_report_says_which_rule_holds(tmp_path: Path) -> None:
    data = data_of(STUDY, {"Adam": -0.25})
    path, analysis, _ = write_transfer_report(STUDY, STUDY.at("rung-1"), data, tmp_path)
    assert analysis.complete
    text = path.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| Adam | −0.2")]
    assert len(rows) == 1 and "] | −0.7" in rows[0] and rows[0].endswith("] | **ruled out** | **holds** |")
    muon = [line for line in text.splitlines() if line.startswith("| Muon | 64 | ")]
    assert re.fullmatch(r"\| Muon \| 64 \| (0\.0\d+ \[0\.0\d+, 0\.0\d+\]) \| \1 \|", muon[0]), "the rate is the angle"
    cells = re.findall(r"(\**)(\d\.\d{3}) \(([\d.]+)\)", muon[1])
    assert [angle for _, _, angle in cells] == ["0.0088", "0.018", "0.035", "0.07", "0.14"]
    lowest = min(loss for _, loss, _ in cells)
    assert [bold == "**" for bold, _, _ in cells] == [loss == lowest for _, loss, _ in cells]
    assert "8 steps a run, 0.01, 0.0026, 0.00065, 0.00016 tokens for each entry of the hidden matrices" in text
    (costs,) = [line for line in text.splitlines() if line.startswith("| Adam | equal angles |")]
    assert costs.count("[") == 3 and "nan" not in text and "None" not in text
    for name in ("lr_transfer_best.png", "lr_transfer_scans.png"):
        assert (tmp_path / "figures" / name).stat().st_size > 10_000 and f"figures/{name}" in text


def test_the_figures_show_the_best_angles_and_the_differences_from_the_best_rate() -> None:
    found = find(STUDY, data_of(STUDY, {"Adam": -0.25}, noise=1e-9))
    with style():
        best, scans = _draw_best(STUDY, found), _draw_scans(STUDY, found)
    places = [container[0].get_xydata()[0] for container in best.axes[3].containers]
    assert places == [pytest.approx([width, BEST * (width / 64) ** -0.25], rel=1e-5) for width in STUDY.widths]
    equal, nugpt = (line.get_xydata() for line in best.axes[3].lines[-2:])
    assert equal[:, 1] == pytest.approx([BEST] * 4, rel=1e-5)
    assert nugpt == pytest.approx(np.array(places), rel=1e-5)
    line = scans.axes[0].containers[1][0].get_xydata()  # Muon at the base width
    angles = np.array(STUDY.rates("Muon", 64))
    losses = CURVATURE * np.log(angles / BEST) ** 2
    assert line == pytest.approx(np.column_stack([angles, losses - losses.min()]), abs=1e-6)
    assert [text.get_text() for text in scans.legends[0].get_texts()] == [f"{width} wide" for width in STUDY.widths]


def test_a_report_on_unfinished_runs_says_so(tmp_path: Path) -> None:
    data = data_of(STUDY, {})
    data["runs"] = [row for row in data["runs"] if "256 wide" not in row["method"]]
    path, analysis, _ = write_transfer_report(STUDY, STUDY.at("rung-1"), data, tmp_path)
    text = path.read_text()
    assert not analysis.complete and "Incomplete: 300 of 400" in text
    assert "| Muon | unknown | unknown | **open** |" in text


@pytest.mark.parametrize("exponents, says", [
    (dict.fromkeys(STUDY.methods, 0.0), "does not depend on width for any of the 4 methods.** "),
    (dict.fromkeys(STUDY.methods, -0.25), "falls with width for all 4 methods.** From 32 to 256 wide, exponents are −"),
    (dict.fromkeys(STUDY.methods, 0.25), "rises with width for all 4 methods.** "),
    ({"Adam": -0.25}, "is open, or differs between methods.** "),
])  # fmt: skip
def test_readme_says_how_the_best_angle_changes_with_width(
    exponents: dict[str, float], says: str, tmp_path: Path
) -> None:
    assert widths_sentence(tmp_path) == ""
    data = data_of(STUDY, exponents)
    write_data(tmp_path, data)
    costs = [cost.value for one in find(STUDY, data) for cost in one.tested[0].costs.values() if cost is not None]
    said = widths_sentence(tmp_path)
    assert says in said and f"; keeping the angle of width 64 costs at most {max(costs):.3f} (5 seeds; " in said
    write_data(tmp_path, data | {"runs": [row for row in data["runs"] if "256 wide" not in row["method"]]})
    assert widths_sentence(tmp_path) == ""


MINI = dataclasses.replace(
    STUDY, name="mini_transfer", widths=(32, 64, 96), factors=(0.5, 1.0, 2.0), seeds=3, preset="tiny",
    methods={"Adam": STUDY.methods["Adam"]},
    fields={**{name: value for name, value in SMALL.items() if name not in ("n_embd", "n_head")}, "steps": 8},
)  # fmt: skip


def test_a_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = TransferStudy(MINI)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    arguments = ["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out")]
    assert engine.carry_out(study, [*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "27 runs, 0 finished" in shown and "tuning" not in shown and "the mean over 3 sizes" in shown
    assert engine.carry_out(study, arguments) == 0
    text = (tmp_path / "out" / "reports" / "MINI_TRANSFER_REPORT.md").read_text()
    assert "27 runs planned: 27 done." in text and "Incomplete" not in text
    assert " layers, 32 to 96 wide, context " in text
    index = (tmp_path / "out" / "reports" / "README.md").read_text()
    assert "| equal angles: Adam |" in index and "| nuGPT: Adam |" in index
    assert "Adam: equal angles **" in index
