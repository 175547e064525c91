"""Judged gates -> markdown and a figure. The prose is in `templates/gates.md.j2`. No torch."""

from pathlib import Path
from typing import Any

import numpy as np

from ngpt.campaign.gates.definition import Gates
from ngpt.campaign.gates.judge import BOTH, Gate, judge_gates, overall
from ngpt.campaign.report.markdown import speaks_of, write_markdown
from ngpt.campaign.report.style import COLORS, save, style, subplots
from ngpt.cost import polar_operations

COLOR_OF = dict(zip(BOTH, COLORS, strict=False))
PANELS = {
    "race": "G6: validation loss [nats per token]",
    "overfit": "G3: loss on the training samples [nats per token]",
    "stability": "G5: training loss [nats per token]",
    "automata": "G7: validation loss on other automata [nats per token]",
}


def write_gates_report(gates: Gates, data: dict[str, Any], reports: Path) -> tuple[Path, list[Gate]]:
    """Write report and figure; return the report's path and the judged gates."""
    judged = judge_gates(gates, data)
    (reports / "figures").mkdir(parents=True, exist_ok=True)
    file = f"{gates.name}_curves.png"
    _draw(data, reports / "figures" / file)
    judged_at = {"ns_steps": data["ns_steps"], "overrides": {}, "preset": data["preset"]}
    operations = polar_operations(gates.configure("speed", "Muon", 0, **judged_at))
    usual = gates.configure("race", "Muon", 0, ns_steps=gates.ns_steps, overrides={}, preset=gates.preset)
    complete = all(row["status"] in ("done", "diverged") for row in data["runs"])
    path = write_markdown(
        "gates.md.j2", reports / gates.report_name, gates=gates, judged=judged, overall=overall(judged), data=data,
        own=speaks_of(gates, usual, data, complete=complete), file=file, polar_gigaflops=operations / 1e9,
        troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("steps_not_finite")],
    )  # fmt: skip
    return path, judged


def _draw(data: dict[str, Any], path: Path) -> None:
    """Draw the loss curves of both optimizers, one panel per task, one line per seed."""
    with style():
        figure, grid = subplots(11.0, 7.4, 2, 2)
        for axes, (task, label) in zip(grid.flat, PANELS.items(), strict=True):
            kind = "train" if task == "stability" else "val"
            rows = [row for row in data["runs"] if row["task"] == task and kind in row]
            for row in rows:
                axes.plot(row[kind]["step"], row[kind]["loss"], linewidth=1.2, color=COLOR_OF[row["optimizer"]])
            ends = [row["final_val_loss"] for row in rows if row["optimizer"] == "AdamW" and "final_val_loss" in row]
            if task == "race" and ends:  # AdamW's mean final loss, and the loss axis cut to what is near it
                axes.axhline(float(np.mean(ends)), color=COLOR_OF["AdamW"], linestyle=":", linewidth=1)
                axes.set_ylim(top=float(np.mean(ends)) + 1.0)
            axes.set(xlabel="step", title=label)
        for name, color in COLOR_OF.items():
            grid.flat[0].plot([], [], label=name, color=color)
        grid.flat[0].legend()
        save(figure, path)
