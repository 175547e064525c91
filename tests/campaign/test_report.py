"""Analysis and report on made-up data: what is computed, and that every kind of trouble is shown."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.execution.collect import write_data
from ngpt.campaign.report.markdown import counted, mean_sd, write_report
from ngpt.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import CAMPAIGN

SEEDS = 4


def row(stage: str, method: str, lr: float, seed: int, loss: float, **change: Any) -> dict[str, Any]:
    curve = {"step": [4, 8], "loss": [loss + 1.0, loss]}
    return {
        "stage": stage, "method": method, "lr": lr, "seed": seed, "run_id": f"{method}-{lr}-s{seed}", "status": "done",
        "steps": 8, "final_val_loss": loss, "tokens_per_second": 100.0 if method == "Muon" else 200.0,
        "train_seconds": 9.0, "eval_seconds": 1.0, "skipped_steps": 0, "first_sha256": f"{method}{lr}{seed}", 
        "final_sha256": f"{method}{lr}{seed}",
        "val": curve, "train": curve,
        "telemetry": {"step": [4, 8], "rotation_hidden_rad": [lr, lr], "drift_hidden": [0.1, 0.1]},
    } | change  # fmt: skip


def made_up(gain: float = 0.1, noise: float = 0.01) -> dict[str, Any]:
    """Muon ends `gain` below Adam; each method's middle rate is its best, by a parabola in log lr."""
    draw = np.random.default_rng(5)
    rows = []
    for method in CAMPAIGN.methods:
        base = 2.0 - (gain if method.name == "Muon" else 0.0)
        for seed in range(SEEDS):
            for lr in method.lrs:
                bend = 0.3 * math.log10(lr / method.lrs[1]) ** 2
                rows.append(row("tuning", method.name, lr, seed, base + bend + noise * draw.normal()))
            final = base + noise * draw.normal()
            rows.append(row("comparison", method.name, method.lrs[1], 10_000 + seed, final))
    environment = {"device": "cpu", "threads": 1, "commit": "abc", "python": "3", "torch": "2", "numpy": "2"}
    return {
        "campaign": "mini", "preset": "tiny", "data": "text.txt", "tokenizer": "bytes", "data_digest": "d" * 64,
        "code_digest": "c" * 64, "command": "python runners/mini.py", "planned_runs": len(rows), "tuning_seeds": SEEDS,
        "comparison_seeds": SEEDS, "model": {"layers": 1, "width": 16, "context": 16, "arch": "gated-ngpt"},
        "training": {"steps": 8, "batch": 2, "dtype": "float32", "schedule": "constant", "aux_lr": 0.01,
                     "decay_share": 0.2, "projection_every": [7], "grad_clip": None},
        "dates": ["2026-01-31"],
        "definition": CAMPAIGN.digest, "jobs": 2, "parameters": 1000, "eval_tokens": 64,
        "commands": {f"{r['method']}|{r['lr']}|{r['seed']}": "--flag" for r in rows},
        "environments": [environment | {"runs": len(rows)}], "runs": rows,
    }  # fmt: skip


def report(data: dict[str, Any], folder: Path) -> str:
    write_data(folder, data)
    path, _ = write_report(CAMPAIGN, folder)
    return path.read_text()


def test_the_numbers_of_a_report() -> None:
    data = made_up()
    analysis = analyze(CAMPAIGN, data)
    muon, adam = analysis.summaries
    compared = [r for r in data["runs"] if r["stage"] == "comparison"]
    difference = np.mean([r["final_val_loss"] for r in compared if r["method"] == "Muon"]) - np.mean(
        [r["final_val_loss"] for r in compared if r["method"] == "Adam"]
    )
    (answer,) = analysis.answers
    assert answer.verdict.effect is not None
    assert answer.verdict.effect.mean == pytest.approx(difference, abs=1e-12)
    assert answer.verdict.word == "better" and analysis.winner == "Muon" and analysis.complete
    assert muon.optimum is not None and muon.optimum.lr == pytest.approx(0.03, rel=0.1) and not muon.optimum.at_edge
    assert muon.tokens_per_second_ratio == pytest.approx(0.5)
    # Muon's curve falls by 1 over steps 4 to 8 and ends about 0.1 lower: at Adam's final loss after 8 - 0.4 steps
    assert np.mean(muon.speedup) == pytest.approx((8 - 4 * -difference) / 8, abs=0.005)
    assert np.all(adam.speedup == 1.0)


@pytest.mark.parametrize(
    ("gain", "noise", "word"),
    [(-0.1, 0.01, "worse"), (0.0, 1e-4, "no difference that matters"), (0.0, 0.2, "undecided")],
)
def test_no_effect_is_not_a_win(gain: float, noise: float, word: str, tmp_path: Path) -> None:
    data = made_up(gain, noise)
    analysis = analyze(CAMPAIGN, data)
    assert analysis.winner is None and analysis.answers[0].verdict.word == word
    text = report(data, tmp_path)
    assert f"| Muon | **{word}" in text and "No method is better than its baseline by the rule." in text
    said = {"worse": "Muon is worse than Adam: it ends 0.", "undecided": "whether Muon is better or worse than Adam is"}
    assert said.get(word, "Muon and Adam do not differ by what matters: Muon ends ") in text.splitlines()[2]
    assert "Predicted lower: not confirmed." in text


def test_the_first_paragraph_answers_and_the_same_data_give_the_same_text(tmp_path: Path) -> None:
    text = report(made_up(), tmp_path)
    lines = [line for line in text.splitlines() if line]
    start = "**On a 1,000-parameter model trained on 256 tokens of text.txt, Muon is better than Adam: it ends 0."
    assert lines[1].startswith(start)
    assert "on all 4 seeds. That is as much as Adam gains in the last " in lines[1]
    assert report(made_up(), tmp_path) == text


def test_a_report_says_whether_steps_were_compiled(tmp_path: Path) -> None:
    """Data from before that was recorded were not."""
    for compiled, words in ((None, "float32, constant"), (False, "float32, constant"), (True, "float32, compiled, ")):
        data = made_up()
        data["training"] |= {} if compiled is None else {"compile": compiled}
        assert words in report(data, tmp_path / str(compiled))


def test_trouble_is_shown(tmp_path: Path) -> None:
    data = made_up()
    runs = data["runs"]
    for name in ("final_val_loss", "val", "tokens_per_second", "final_sha256"):
        del runs[2][name]
    runs[2] |= {"status": "diverged", "skipped_steps": 11}
    runs[0] = {k: runs[0][k] for k in ("stage", "method", "lr", "seed", "run_id")} | {
        "status": "failed",
        "message": "no space",
    }
    text = report(data, tmp_path)
    assert "> **Incomplete: 31 of 32 runs have ended.**" in text
    assert "| diverged | 11 |" in text and "failed: no space" in text


def test_a_comparison_run_that_diverged_is_no_evidence_for_its_method(tmp_path: Path) -> None:
    data = made_up(gain=1.0)
    final = next(r for r in data["runs"] if r["stage"] == "comparison" and r["method"] == "Muon")
    del final["final_val_loss"]
    final["status"] = "diverged"
    analysis = analyze(CAMPAIGN, data)
    assert analysis.winner is None and analysis.answers[0].verdict.word == "undecided"
    assert "missing" in report(data, tmp_path)


def test_a_flag_without_effect_is_shown(tmp_path: Path) -> None:
    data = made_up()
    for r in data["runs"]:
        if r["method"] == "Muon" and r["lr"] == 0.1:
            r["first_sha256"] = r["final_sha256"] = f"Muon0.03{r['seed']}"
    assert analyze(CAMPAIGN, data).idle == [("Muon, lr 0.03", "Muon, lr 0.1")]
    assert "> **Invalid: a flag had no effect.**" in report(data, tmp_path)


def test_a_report_before_the_comparison_says_what_there_is(tmp_path: Path) -> None:
    data = made_up()
    data["runs"] = [r for r in data["runs"] if r["stage"] == "tuning"]
    text = report(data, tmp_path)
    assert "Incomplete" in text and "undecided" in text and "| Muon | 0.0" in text


def test_a_report_of_methods_that_never_finished(tmp_path: Path) -> None:
    data = made_up()
    keep = ("stage", "method", "lr", "seed", "run_id")
    data["runs"] = [{k: r[k] for k in keep} | {"status": "missing"} for r in data["runs"] if r["stage"] == "tuning"]
    data |= {"environments": [], "parameters": None, "eval_tokens": None}
    assert "0 of 32 runs have ended" in report(data, tmp_path)


def test_a_baseline_that_is_missing_a_run_is_beaten_by_nobody() -> None:
    data = made_up(gain=1.0)
    final = next(r for r in data["runs"] if r["stage"] == "comparison" and r["method"] == "Adam")
    del final["final_val_loss"]
    verdict = analyze(CAMPAIGN, data).answers[0].verdict
    assert verdict.word == "undecided" and "missing" in verdict.reason


@pytest.mark.parametrize(
    ("gain", "edge", "word"),
    [(0.1, "Adam", "undecided"), (0.1, "Muon", "better"), (-0.1, "Adam", "worse"), (-0.1, "Muon", "undecided")],
)
def test_an_untuned_rate_decides_nothing_in_its_disfavor(gain: float, edge: str, word: str, tmp_path: Path) -> None:
    """A baseline at the edge of its grid is not beaten, a method at the edge of its own is not called worse."""
    data = made_up(gain)
    grid = next(method.lrs for method in CAMPAIGN.methods if method.name == edge)
    for r in data["runs"]:
        if r["stage"] == "comparison" and r["method"] == edge:
            r["lr"] = grid[-1]
    data["commands"] |= {f"{edge}|{grid[-1]}|10000": "--flag"}
    assert analyze(CAMPAIGN, data).answers[0].verdict.word == word
    assert (f"best rate of {edge} is at the edge of its grid" in report(data, tmp_path)) == (word == "undecided")


def test_data_of_another_rule_make_no_report(tmp_path: Path) -> None:
    write_data(tmp_path, made_up())
    stricter = dataclasses.replace(CAMPAIGN, rule=dataclasses.replace(CAMPAIGN.rule, smallest_effect=0.2))
    with pytest.raises(InputError, match="was changed"):
        write_report(stricter, tmp_path)


def test_survivors_are_no_result() -> None:
    assert mean_sd(np.array([1.0, np.nan])) == "–" and counted(np.array([1.0, np.nan])) == "1 of 2"
