"""Studies of sensitivity: the points, what is computed from made-up losses, and a whole small study."""

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.sensitivity import STUDY
from ngpt.campaign import engine
from ngpt.campaign.analysis.analyze import Analysis, analyze
from ngpt.campaign.definition import Rule
from ngpt.campaign.sensitivity.analysis import (
    Findings,
    Scan,
    chosen_without_each_seed,
    compromise,
    cost_of_sharing,
    find,
)
from ngpt.campaign.sensitivity.command import SensitivityStudy
from ngpt.campaign.sensitivity.definition import Knob, Point, Sensitivity
from ngpt.campaign.sensitivity.report import write_sensitivity_report
from ngpt.config import flatten
from ngpt.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import SMALL
from mini_untuned import SEEDS, collected

Truth = Callable[[Point], float]
"""true loss of a point"""


def data_of(
    study: Sensitivity, truth: Truth, *, noise: float = 0.003, without: str = "", status: str = "missing"
) -> dict[str, Any]:
    """Collected data of a study: losses are the truth, an effect of the seed, and noise. One run may have no result."""
    points = {point.name: point for point in study.points(study.preset)}
    data = collected(study.at(study.preset), lambda method: truth(points[method.name]), noise=noise)
    for row in data["runs"]:
        if row["method"] == without and row["seed"] == 0:
            row["status"] = status
            del row["final_val_loss"], row["final_sha256"]
    return data


def findings_of(truth: Truth, **more: Any) -> Findings:
    data = data_of(STUDY, truth, **more)
    return find(STUDY, analyze(STUDY.at("rung-1"), data), data)


def advice(findings: Findings) -> dict[str, str]:
    return {one.name: one.advice for one in findings.compromises}


def scan_of(findings: Findings, method: str, knob: str) -> Scan:
    return next(scan for scan in findings.scans if scan.method == method and scan.knob_names == knob)


# --- the points ------------------------------------------------------------------------------------------------------


def test_each_method_has_its_defaults_the_surface_and_every_other_knob_moved_alone() -> None:
    points = STUDY.points("rung-1")
    assert len({point.name for point in points}) == len(points)
    for method in STUDY.methods:
        mine = [point for point in points if point.method == method]
        moved = [tuple(sorted(point.values)) for point in mine]
        assert moved.count(()) == 1 and moved.count(("auxiliary rate", "hidden rate")) == 4
        for knob in STUDY.all_knobs(method):
            assert moved.count((knob.name,)) == 2
        assert len(mine) == 1 + 4 + 2 * len(STUDY.all_knobs(method))
    assert not [point for point in points if point.method == "Adam" and "momentum" in point.values]


def test_every_arm_differs_from_the_defaults_in_what_its_name_says_and_in_nothing_else() -> None:
    campaign = STUDY.at("rung-1")
    field_of = {knob.name: knob.field for knob in STUDY.all_knobs()}
    configs = {arm.method: campaign.configure(arm, 0, {}, "rung-1") for arm in campaign.arms()}
    for point in STUDY.points("rung-1"):
        here, defaults = flatten(configs[point.name]), flatten(configs[point.method])
        different = {name: value for name, value in here.items() if defaults[name] != value}
        assert different == {field_of[name]: value for name, value in point.values.items()}


def test_a_study_at_another_preset_is_placed_around_its_defaults() -> None:
    knob = next(knob for knob in STUDY.knobs if knob.name == "alpha")
    assert STUDY.values(knob, "Muon", "rung-1") == (0.1125, 0.225, 0.45)
    assert STUDY.values(knob, "Muon", "rung-2") == (0.075, 0.15, 0.3)
    assert STUDY.at("rung-2").digest != STUDY.at("rung-1").digest


def test_a_study_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown methods"):
        dataclasses.replace(STUDY, knobs=(dataclasses.replace(STUDY.knobs[0], methods=("Sophia",)),))
    with pytest.raises(ValueError, match="lower metric"):
        dataclasses.replace(STUDY, rule=dataclasses.replace(STUDY.rule, predicted="higher"))
    with pytest.raises(ValueError, match="must differ"):
        dataclasses.replace(STUDY, knobs=(STUDY.knobs[0], dataclasses.replace(STUDY.knobs[1], name="momentum")))
    with pytest.raises(ValueError, match="of all methods"):
        dataclasses.replace(STUDY, surface=(STUDY.knobs[0], STUDY.surface[1]), knobs=())
    for moved in (lambda value: (value,), lambda value: (), lambda value: (2 * value, 2 * value)):
        with pytest.raises(ValueError, match="other values, each once"):
            dataclasses.replace(STUDY, knobs=(dataclasses.replace(STUDY.knobs[2], moved=moved),)).at("rung-1")


def test_a_value_that_is_refused_is_refused_before_any_run(tmp_path: Path) -> None:
    beyond = dataclasses.replace(MINI, knobs=(Knob(name="beta1", field="adam_beta1", moved=lambda value: (1.5,)),))
    with pytest.raises(InputError, match="--adam-beta1 must lie in"):
        engine.carry_out(SensitivityStudy(beyond), ["--dry-run", "--out", str(tmp_path)])


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_where_all_values_are_equal_every_default_is_fine_and_one_value_serves() -> None:
    findings = findings_of(lambda point: 2.0)
    assert {scan.state for scan in findings.judged} == {"fine"} and len(findings.judged) == 23
    assert set(advice(findings).values()) == {"one value serves"} and findings.complete


def opposite(point: Point) -> float:
    """Adam is better at a large alpha, Muon at a small one, and geodesic Muon does not care."""
    slope = {"Adam": -0.05, "Muon": 0.05}.get(point.method, 0.0)
    return 2.0 + slope * math.log2(point.values.get("alpha", 0.225) / 0.225)


def test_where_methods_want_opposite_values_the_knob_is_to_be_tuned_per_method() -> None:
    findings = findings_of(opposite)
    alpha = scan_of(findings, "Adam", "alpha")
    assert alpha.best is not None
    assert (alpha.state, alpha.best.values, alpha.at_edge(alpha.best)) == ("off", (0.45,), True)
    assert scan_of(findings, "geodesic Muon", "alpha").state == "fine"
    assert advice(findings) == {
        "hidden rate (Muon, geodesic Muon)": "one value serves", "auxiliary rate": "one value serves",
        "momentum (Muon, geodesic Muon)": "one value serves", "beta1 (Muon, geodesic Muon)": "one value serves",
        "alpha": "tune per method", "logit scale": "one value serves", "gate": "one value serves",
    }  # fmt: skip


def test_a_value_that_one_method_needs_and_the_others_do_not_mind_is_shared() -> None:
    findings = findings_of(lambda point: 2.0 - 0.05 * (point.method == "Adam" and point.values.get("alpha") == 0.45))
    (alpha,) = [one for one in findings.compromises if one.knob.name == "alpha"]
    assert (alpha.value, alpha.advice) == (0.45, "one value serves")
    assert scan_of(findings, "Adam", "alpha").state == "off"


def test_a_value_that_is_better_for_all_methods_is_shared() -> None:
    findings = findings_of(lambda point: 2.0 - 0.05 * (point.values.get("gate") == 1))
    assert [scan_of(findings, method, "gate").state for method in STUDY.methods] == ["off"] * 3
    assert advice(findings)["gate"] == "one value serves"


def test_a_gain_too_small_to_matter_leaves_the_default_fine_and_one_too_noisy_leaves_it_open() -> None:
    truth: Truth = lambda point: 2.0 - 0.012 * (point.values.get("logit scale") == 16)  # noqa: E731
    assert scan_of(findings_of(truth, noise=0.001), "Muon", "logit scale").state == "fine"
    assert scan_of(findings_of(truth, noise=0.05), "Muon", "logit scale").state == "open"


def test_only_methods_with_the_same_values_of_a_knob_share_it() -> None:
    sharing = {one.knob.name: list(one.verdicts) for one in findings_of(lambda point: 2.0).compromises}
    muons, everyone = ["Muon", "geodesic Muon"], ["Muon", "geodesic Muon", "Adam"]
    assert sharing == {
        "hidden rate": muons, "auxiliary rate": everyone, "momentum": muons, "beta1": muons, "alpha": everyone,
        "logit scale": everyone, "gate": everyone,
    }  # fmt: skip


def test_a_missing_run_leaves_open_what_needs_it() -> None:
    findings = findings_of(lambda point: 2.0, without="Muon, gate 1")
    gate = scan_of(findings, "Muon", "gate")
    assert gate.state == "open" and not findings.complete
    assert scan_of(findings, "Muon", "alpha").state == "fine"
    assert advice(findings)["gate"] == "open" and advice(findings)["alpha"] == "one value serves"


def test_a_value_at_which_runs_diverge_is_worse_than_the_default() -> None:
    """The survivors' mean is no result; neither the default nor a comparison of methods waits for it."""
    far = "Muon, hidden rate 0.04"
    data = data_of(STUDY, lambda point: 2.0 - 0.1 * (point.name == far), without=far, status="diverged")
    findings = find(STUDY, analyze(STUDY.at("rung-1"), data), data)
    rate = scan_of(findings, "Muon", "hidden rate")
    assert rate.state == "fine" and [one.diverged for one in rate.moved] == [0, 1]
    (shared,) = [one for one in findings.compromises if one.knob.name == "hidden rate"]
    assert shared.advice == "one value serves" and shared.value != 0.04


def test_where_no_value_serves_all_methods_the_knob_is_to_be_tuned_per_method() -> None:
    data = data_of(STUDY, lambda point: 2.0)
    lost = {"Muon, gate 1", "Muon, gate -1", "geodesic Muon", "Adam"}
    for row in data["runs"]:
        if row["method"] in lost and row["seed"] == 0:
            row["status"] = "diverged"
            del row["final_val_loss"], row["final_sha256"]
    findings = find(STUDY, analyze(STUDY.at("rung-1"), data), data)
    (gate,) = [one for one in findings.compromises if one.knob.name == "gate"]
    assert gate.value is None and gate.advice == "tune per method"


def test_of_two_better_values_the_one_that_is_shown_to_be_better_is_named(tmp_path: Path) -> None:
    """Gate -1 is better on average but too noisy; gate 1 is better by the rule."""
    draw = np.random.default_rng(1)
    truth: Truth = lambda point: (  # noqa: E731
        2.0 + (draw.normal(scale=0.2) - 0.3 if point.values == {"gate": -1} and point.method == "Muon" else 0.0)
        - 0.03 * (point.values == {"gate": 1})
    )  # fmt: skip
    gate = scan_of(findings_of(truth), "Muon", "gate")
    low, high = gate.moved
    assert low.answer.verdict.effect is not None and high.answer.verdict.effect is not None
    assert low.answer.verdict.effect.mean < high.answer.verdict.effect.mean
    assert low.answer.verdict.word != "better" and gate.best is high


def test_the_surface_is_judged_where_both_knobs_are_moved() -> None:
    corner = {"hidden rate": 0.04, "auxiliary rate": 0.01}
    findings = findings_of(lambda point: 2.0 - 0.1 * (point.values == corner and point.method == "Muon"), noise=0.001)
    surface = findings.surfaces[0]
    assert surface.state == "off" and surface.best is not None and surface.best.values == (0.04, 0.01)
    assert [scan.state for scan in findings.surfaces[1:]] == ["fine", "fine"]
    assert scan_of(findings, "Muon", "hidden rate").state == "fine" and len(surface.moved) == 4
    assert surface.grids == ((0.01, 0.02, 0.04), (0.0025, 0.005, 0.01))
    assert surface.differences == pytest.approx(np.array([[0, 0, 0], [0, 0, 0], [0, 0, -0.1]]), abs=0.003)


def test_the_cost_of_sharing_is_not_made_larger_by_the_choice_of_the_best_value() -> None:
    """Between equally good values the cost is zero on average; with the best chosen on the judging seeds it is not."""
    draw = np.random.default_rng(0)
    crossed, naive = [], []
    for _ in range(4000):
        tables = draw.normal(size=(2, SEEDS, 3))
        crossed.append(cost_of_sharing(tables).mean())
        means = tables.mean(axis=1)
        naive.append((means[:, compromise(tables)] - means.min(axis=1)).mean())
    error = np.std(crossed) / np.sqrt(len(crossed))
    assert abs(np.mean(crossed)) < 4 * error
    assert np.mean(naive) > 10 * error


def test_the_cost_of_sharing_by_hand() -> None:
    """The first method loses 1 or 3 at values that are not its own, the second 4 or 2: the middle is the compromise."""
    seeds = np.array([0.0, 5.0, 7.0])[:, None]
    tables = np.stack([np.array([0.0, 1.0, 3.0]) + seeds, np.array([4.0, 2.0, 0.0]) + seeds])
    assert compromise(tables) == 1
    assert cost_of_sharing(tables) == pytest.approx(np.array([[1.0] * 3, [2.0] * 3]))
    assert cost_of_sharing(tables[[0, 0]]) == pytest.approx(np.zeros((2, 3)))
    tables[0, 1, 1] = np.inf  # there a run diverged: the next best compromise
    assert cost_of_sharing(tables)[:, [0, 2]] == pytest.approx(np.array([[3.0] * 2, [0.0] * 2]))
    tables[1, 2, 0] = np.nan
    assert np.isnan(cost_of_sharing(tables)).all()


def test_the_compromise_may_hang_on_one_seed() -> None:
    """Without the third seed, where the last value is far better, the first is the compromise of one method."""
    tables = np.array([[[0.0, 1.0], [0.0, 1.0], [9.0, 0.0]]])
    assert compromise(tables) == 1
    assert chosen_without_each_seed(tables) == [1, 1, 0]


# --- the report ------------------------------------------------------------------------------------------------------


@pytest.mark.drawn
def test_the_report_says_what_is_off_and_what_to_tune(tmp_path: Path) -> None:
    data = data_of(STUDY, opposite)
    path, analysis, findings = write_sensitivity_report(STUDY, STUDY.at("rung-1"), data, tmp_path)
    assert isinstance(analysis, Analysis) and findings.complete
    text = path.read_text()
    assert "- Off (some value tried is better by at least 0.02): 2 of 23; Muon: alpha; Adam: alpha." in text
    assert "- Tune per method: alpha." in text and "- Open: none." in text
    (row,) = [line for line in text.splitlines() if line.startswith("| Adam | alpha |")]
    assert "| 0.225: default |" in row and "**0.45: −0.0" in row and row.endswith("| **off**: 0.45 or beyond |")
    (row,) = [line for line in text.splitlines() if line.startswith("| alpha | 0.225 |")]
    assert row.count("**+0.0") == 2 and row.endswith("| tune per method |")
    assert "nan" not in text and "None" not in text
    for name in ("sensitivity_knobs.png", "sensitivity_surface.png"):
        assert (tmp_path / "figures" / name).stat().st_size > 10_000 and f"figures/{name}" in text


MINI = Sensitivity(
    name="mini_sensitivity",
    title="A small study",
    question="Which defaults are off?",
    claim="Nothing is claimed.",
    methods={"Muon": {"optimizer": "muon", "lr": 0.03}, "Adam": {"optimizer": "adam"}},
    surface=(
        Knob(name="hidden rate", field="lr", moved=lambda value: (2 * value,)),
        Knob(name="auxiliary rate", field="aux_lr", moved=lambda value: (2 * value,)),
    ),
    knobs=(Knob(name="gate", field="gate_init", moved=lambda value: (value + 1,)),),
    rule=Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.02, unit="nats per token", seeds=2),
    seeds=2,
    fields={**SMALL, "steps": 8},
)


def test_a_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = SensitivityStudy(MINI)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    arguments = ["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out")]
    assert engine.carry_out(study, [*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "20 runs, 0 finished" in shown and shown.count("Adam, gate 1, lr 0.01, seed ") == 2
    assert "tuning" not in shown
    assert engine.carry_out(study, arguments) == 0
    text = (tmp_path / "out" / "reports" / "MINI_SENSITIVITY_REPORT.md").read_text()
    assert "20 runs planned: 20 done." in text and "| Adam | gate |" in text and "Incomplete" not in text
    index = (tmp_path / "out" / "reports" / "README.md").read_text()
    assert "| Muon: gate 1 |" in index and "| Adam: hidden rate and auxiliary rate 0.02 0.02 |" in index
    assert engine.carry_out(study, [*arguments, "--dry-run"]) == 0
    assert "20 runs, 20 finished" in capsys.readouterr().out, "those of every stage"
    assert engine.carry_out(study, [*arguments, "--reproduce", "--reports", str(tmp_path / "out" / "reports")]) == 0
    assert "10 of 10 runs have the published weights" in capsys.readouterr().out


def test_data_of_another_preset_are_read_as_what_they_are(tmp_path: Path) -> None:
    """A report of a study at another preset is listed and rebuilt by a runner that starts at its own."""
    from ngpt.campaign.execution.collect import write_data
    from ngpt.campaign.report.index import write_index

    at_rung_2 = dataclasses.replace(STUDY, preset="rung-2")
    write_data(tmp_path, data_of(at_rung_2, lambda point: 2.0))
    study = SensitivityStudy(STUDY)
    write_index([study], tmp_path)
    assert "| question | what matters | `rung-2` (10), text.txt |" in (tmp_path / "README.md").read_text()
    assert study.report(tmp_path)[0].exists()
    with pytest.raises(InputError, match="results at rung-2, and there is one report for all presets: give another"):
        engine.carry_out(study, ["--reports", str(tmp_path), "--out", str(tmp_path / "out")])
