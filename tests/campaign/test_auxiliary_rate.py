"""Campaigns that tune the auxiliary rate after the hidden one: plan, choice, report, verdict, refusals."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.definition import Arm, Method
from ngpt.campaign.definition.plan import Plan, key_of
from ngpt.campaign.execution.collect import write_data
from ngpt.campaign.report.markdown import write_report
from ngpt.files import read_json

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import CAMPAIGN as PLAIN
from mini_campaign import carry_out
from test_report import SEEDS, made_up, row

AUX_LRS = (0.003, 0.01, 0.03)
FIXED = Method(name="fixed", fields={"optimizer": "adam", "adam_beta2": 0.9}, lrs=(0.01,))
CAMPAIGN = dataclasses.replace(PLAIN, aux_lrs=AUX_LRS, methods=(*PLAIN.methods, FIXED))
BOTH_TUNED = dataclasses.replace(PLAIN, aux_lrs=AUX_LRS)


def rows_of(content: dict[str, Any], stage: str, method: str) -> list[dict[str, Any]]:
    return [r for r in content["runs"] if (r["stage"], r["method"]) == (stage, method)]


@pytest.mark.drawn
def test_both_rates_are_tuned_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} bottles of beer on the wall, {i * 7 % 13} of them green.\n" for i in range(400)))
    places = ["--data", str(text), "--out", str(tmp_path / "runs"), "--reports", str(tmp_path / "r")]
    flags = [*places, "--steps", "8"]
    assert carry_out(CAMPAIGN, [*flags, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert "32 runs, 0 finished" in planned, "2 x 3 hidden rates, 2 x 2 + 3 auxiliary ones, and 3 methods, on 2 seeds"
    assert "auxiliary  2 seeds of Muon at 2 of the rates 0.003, 0.01, 0.03" in planned
    assert "auxiliary  2 seeds of fixed at 3 of the rates" in planned

    assert carry_out(CAMPAIGN, flags) == 0
    content = read_json(tmp_path / "r" / "data" / "mini.json")
    assert len(content["runs"]) == content["planned_runs"] == 32 == len({r["run_id"] for r in content["runs"]})
    for method in CAMPAIGN.methods:
        hidden, auxiliary, final = (
            rows_of(content, stage, method.name) for stage in ("tuning", "auxiliary", "comparison")
        )
        tuned = len(method.lrs) > 1
        assert {(r["lr"], r["aux_lr"]) for r in hidden} == ({(lr, 0.01) for lr in method.lrs} if tuned else set())
        lr = lowest(hidden, "lr") if tuned else 0.01
        assert {(r["lr"], r["aux_lr"]) for r in auxiliary} == {(lr, a) for a in AUX_LRS if not tuned or a != 0.01}
        tried = [r for r in hidden + auxiliary if r["lr"] == lr]
        assert {(r["lr"], r["aux_lr"]) for r in final} == {(lr, lowest(tried, "aux_lr"))}
        assert {r["seed"] for r in hidden + auxiliary} == {0, 1} and not {0, 1} & {r["seed"] for r in final}
    for r in content["runs"]:
        command = content["commands"][f"{r['method']}|{r['lr']}|{r['aux_lr']}|{r['seed']}"]
        assert f"--aux-lr {r['aux_lr']}" in command, "a run's command states the rate it had"

    report = Path(capsys.readouterr().out.splitlines()[-1])
    words = report.read_text()
    final_adam = rows_of(content, "comparison", "Adam")[0]
    assert f"**{final_adam['aux_lr']:g}: " in words.split("auxiliary rate: loss |\n")[1].split("\n\n")[0]
    assert f"--aux-lr {final_adam['aux_lr']:g} " in words.split("One run at each method's chosen rate")[1]
    assert f"| {final_adam['lr']:g}, auxiliary {final_adam['aux_lr']:g} |" in words
    assert "| Adam | 10 | 2 | 0.0" in words, "the cost of tuning"
    assert (report.parent / "figures" / "mini_loss_against_aux_lr.png").stat().st_size > 10_000

    assert carry_out(CAMPAIGN, [*places, "--reproduce"]) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 runs have the published weights to the bit" in shown and ", aux 0.0" in shown


def lowest(rows: list[dict[str, Any]], rate: str) -> float:
    values = sorted({r[rate] for r in rows})
    return min(values, key=lambda value: np.mean([r["final_val_loss"] for r in rows if r[rate] == value]))


def tuned_data(gain: float = 0.1, *, best: dict[str, float] | None = None) -> dict[str, Any]:
    """The made-up data with an auxiliary grid; `best` is each method's best auxiliary rate, by default the middle."""
    content = made_up(gain)
    chosen = {"Muon": 0.01, "Adam": 0.01} | (best or {})
    for r in content["runs"]:
        r["aux_lr"] = chosen[r["method"]] if r["stage"] == "comparison" else 0.01
    draw = np.random.default_rng(6)
    for method in BOTH_TUNED.methods:
        base, lr = 2.0 - gain * (method.name == "Muon"), method.lrs[1]
        for seed in range(SEEDS):
            for aux_lr in (0.003, 0.03):
                loss = base - 0.2 if aux_lr == chosen[method.name] else base + 0.1
                content["runs"].append(
                    row("auxiliary", method.name, lr, seed, loss + 0.01 * draw.normal(), aux_lr=aux_lr,
                        final_sha256=f"{method.name}{lr}{aux_lr}{seed}")
                )  # fmt: skip
    commands = {key_of(r): f"--aux-lr {r['aux_lr']}" for r in content["runs"]}
    return content | {
        "definition": BOTH_TUNED.digest, "planned_runs": len(content["runs"]), "commands": commands,
    }  # fmt: skip


def test_the_report_shows_both_grids_the_pair_and_the_cost(tmp_path: Path) -> None:
    content = tuned_data()
    write_data(tmp_path, content)
    path, analysis = write_report(BOTH_TUNED, tmp_path)
    muon = analysis.summaries[0]
    auxiliary = rows_of(content, "auxiliary", "Muon")
    expected = [np.mean([r["final_val_loss"] for r in auxiliary if r["aux_lr"] == a]) for a in (0.003, 0.03)]
    np.testing.assert_allclose(muon.aux_tuning.mean(axis=0)[[0, 2]], expected)
    hidden = [r["final_val_loss"] for r in rows_of(content, "tuning", "Muon") if r["lr"] == 0.03]
    np.testing.assert_allclose(muon.aux_tuning[:, 1], hidden)
    assert (muon.chosen_lr, muon.chosen_aux_lr, muon.chosen) == (0.03, 0.01, "lr 0.03, aux 0.01")
    assert muon.tuning_runs == 5 * SEEDS and muon.comparison_runs == SEEDS
    assert math.isclose(muon.hours, 6 * SEEDS * 10.0 / 3600)
    words = path.read_text()
    shown = f"| Muon | 0.003: {expected[0]:.3f}, **0.01: {np.mean(hidden):.3f}**, 0.03: {expected[1]:.3f} |"
    assert shown in words
    assert "a grid of 3 rates with 4 seeds each, at the auxiliary rate 0.01, and then its best auxiliary rate" in words
    assert "| Muon | 20 | 4 | 0.07 |" in words


@pytest.mark.parametrize(
    ("gain", "edge", "word"),
    [(0.1, "Adam", "undecided"), (0.1, "Muon", "better"), (-0.1, "Adam", "worse"), (-0.1, "Muon", "undecided")],
)  # fmt: skip
def test_an_edge_of_the_auxiliary_grid_counts_like_an_edge_of_the_hidden_grid(
    gain: float, edge: str, word: str
) -> None:
    verdict = analyze(BOTH_TUNED, tuned_data(gain, best={edge: 0.03})).answers[0].verdict
    assert verdict.word == word
    said = f"the best auxiliary rate of {edge} is at the edge of its grid" in verdict.reason
    assert said == (word == "undecided")


def test_an_auxiliary_rate_without_effect_is_found() -> None:
    content = tuned_data()
    for r in content["runs"]:
        if r["method"] == "Muon" and (r["lr"], r["stage"]) == (0.03, "auxiliary"):
            r["first_sha256"] = r["final_sha256"] = f"Muon0.03{r['seed']}"
    assert analyze(BOTH_TUNED, content).idle == [
        ("Muon, lr 0.03, aux 0.01", "Muon, lr 0.03, aux 0.003"),
        ("Muon, lr 0.03, aux 0.01", "Muon, lr 0.03, aux 0.03"),
    ]


def test_the_runs_of_the_default_are_not_repeated() -> None:
    plan = Plan(campaign=CAMPAIGN, preset="tiny", overrides={}, tuning_seeds=2, comparison_seeds=2, data_digest="0")
    chosen: dict[str, Arm] = {arm.method: arm for arm in CAMPAIGN.arms() if arm.lr in (0.03, 0.01)}
    hidden, auxiliary = plan.tuning_runs(), plan.auxiliary_runs(chosen)
    assert not {run.run_id for run in hidden} & {run.run_id for run in auxiliary}
    assert len(hidden) + len(auxiliary) + 3 * 2 == plan.count()
    assert {run.arm.aux_lr for run in auxiliary if run.arm.method != "fixed"} == {0.003, 0.03}
    assert all(run.config.optim.aux_lr == run.arm.aux_lr for run in hidden + auxiliary)


def test_without_a_grid_nothing_changes() -> None:
    assert PLAIN.digest == "a1e7bded0127f123"
    plan = Plan(campaign=PLAIN, preset="tiny", overrides={}, tuning_seeds=2, comparison_seeds=2, data_digest="0")
    assert plan.auxiliary_runs({arm.method: arm for arm in PLAIN.arms()}) == [] and plan.count() == 16
    assert CAMPAIGN.digest != dataclasses.replace(CAMPAIGN, aux_lrs=(0.005, 0.01, 0.02)).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aux_lrs": (0.001, 0.002)}, r"must contain fields\['aux_lr'\], which is 0.01"),
        ({"fields": {}}, r"must contain fields\['aux_lr'\], which is None"),
        ({"methods": (dataclasses.replace(FIXED, fields={"aux_lr": 0.1}),), "baselines": ("fixed",)}, "cannot state"),
    ],
)
def test_a_grid_without_the_default_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BOTH_TUNED, **change)
