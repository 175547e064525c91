"""The notebook in `examples/`: it runs from the root and from its folder, and shows what the data hold."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "examples" / "explore.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
CAMPAIGN, FIRST, SECOND = "muon_lr_sweep", "Muon", "Adam"

EXECUTE = """
import json, sys
names = {}
for source in json.load(sys.stdin):
    exec(source, names)
import matplotlib.pyplot as plt
lines = [[(line.get_label(), list(line.get_xdata(orig=True)), list(line.get_ydata(orig=True))) for line in axes.lines]
         for number in plt.get_fignums() for axes in plt.figure(number).axes]
frames = {name: json.loads(names[name].to_json(orient="records")) for name in ("runs", "verdicts")}
print(json.dumps({"lines": lines, **frames}, default=float))
"""
"""Executes the cells like a notebook, in one namespace, and prints what they have made."""


def collected() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((ROOT / "reports" / "data" / f"{CAMPAIGN}.json").read_text())["runs"]
    return runs


def differences() -> list[float]:
    """By seed, from the data alone."""
    losses = {(r["method"], r["seed"]): r["final_val_loss"] for r in collected() if r["stage"] == "comparison"}
    seeds = sorted({seed for _, seed in losses})
    return [losses[FIRST, seed] - losses[SECOND, seed] for seed in seeds]


def verdicts_of(campaign: str, values: list[float]) -> dict[str, Any]:
    """A line of `verdicts.jsonl`."""
    mean, half = np.mean(values), stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return {
        "id": f"{campaign}-1", "campaign": campaign, "question": "Which ends lower?",
        "contrast": f"{FIRST} against {SECOND}", "answer": "better", "confirmed": True, "effect": mean,
        "low": mean - half, "high": mean + half, "unit": "nats per token", "smallest_effect": 0.02,
        "seeds": len(values), "agreeing": len(values), "preset": "tiny", "parameters": 180_663, "tokens": None,
        "data": "stdlib", "arch": "gated-ngpt", "control": False, "date": "2026-01-31", "commit": None,
        "report": f"{campaign.upper()}_REPORT.md",
    }  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the notebook needs of the repository."""
    place = tmp_path_factory.mktemp("checkout")
    (place / "examples").mkdir()
    (place / "reports" / "data").mkdir(parents=True)
    shutil.copy(ROOT / "reports" / "data" / f"{CAMPAIGN}.json", place / "reports" / "data")
    published, here = ROOT / "reports" / "verdicts.jsonl", place / "reports" / "verdicts.jsonl"
    if published.exists():
        shutil.copy(published, here)
    else:
        lines = [verdicts_of("another", [1.0, 2.0]), verdicts_of(CAMPAIGN, differences())]
        here.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


@pytest.mark.parametrize("folder", [".", "examples"])
def test_it_shows_what_the_data_hold(checkout: Path, folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE], input=json.dumps(CODE), cwd=checkout / folder, capture_output=True, text=True,
        env=os.environ | {"MPLBACKEND": "agg"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)

    runs = collected()
    assert len(made["runs"]) == len(runs)
    for row, run in zip(made["runs"], runs, strict=True):
        same = ("stage", "method", "lr", "seed", "run_id", "status")
        assert [row[name] for name in same] == [run[name] for name in same]
        assert row["final_val_loss"] == pytest.approx(run["final_val_loss"], rel=1e-8)
    lines = [json.loads(line) for line in (checkout / "reports" / "verdicts.jsonl").read_text().splitlines()]
    (verdict,) = (line for line in lines if line["report"] == f"{CAMPAIGN.upper()}_REPORT.md")
    (shown,) = made["verdicts"]
    assert shown["contrast"] == verdict["contrast"] and shown["effect"] == pytest.approx(verdict["effect"], rel=1e-8)

    (interval, dots, _zero), curves = made["lines"]
    assert interval[1] == pytest.approx([verdict["low"], verdict["high"]]) and interval[2] == [verdict["contrast"]] * 2
    assert dots[1] == pytest.approx(differences()) and set(dots[2]) == {f"{FIRST} against {SECOND}"}
    assert np.mean(dots[1]) == pytest.approx(verdict["effect"], abs=1e-6), "dots and interval are of the same runs"

    assert [curve[0] for curve in curves] == [SECOND, FIRST]
    for name, steps, losses in curves:
        mine = [run["val"] for run in runs if run["stage"] == "comparison" and run["method"] == name]
        assert steps == mine[0]["step"] and losses == pytest.approx(np.mean([val["loss"] for val in mine], axis=0))


def test_it_is_short_and_without_outputs() -> None:
    assert sum(len([line for line in source.splitlines() if line.strip()]) for source in CODE) <= 30
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len({*ids}) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one) for one in ids)
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        else:
            assert set(cell) == {"cell_type", "id", "metadata", "source"}
