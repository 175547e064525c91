"""Judged gates -> markdown and a figure. The words are in `templates/gates.md.j2`. No torch."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ngpt.campaign.figures import COLOURS, STYLE, save
from ngpt.campaign.gates.definition import Gates
from ngpt.campaign.gates.judge import Gate, judge_gates, overall, polar_operations
from ngpt.campaign.report import OutdatedDataError, data_path, environment
from ngpt.errors import InputError
from ngpt.files import read_json, write_text

LOOKS: dict[str, dict[str, Any]] = {"Muon": {"color": COLOURS[0]}, "AdamW": {"color": COLOURS[1]}}
PANELS = {
    "race": "G6: validation loss [nats per token]",
    "overfit": "G3: loss on the samples trained on [nats per token]",
    "stability": "G5: training loss [nats per token]",
    "automata": "G7: validation loss on other automata [nats per token]",
}


def read_gates_data(gates: Gates, reports: Path) -> dict[str, Any]:
    """The collected data. Raises InputError if they are not these gates', OutdatedDataError if they were once."""
    path = data_path(reports, gates.name)
    data = read_json(path)
    if data.get("campaign") != gates.name or not data.get("runs"):
        raise InputError(f"{path}: not the data of these gates")
    if data["definition"] != gates.digest:
        raise OutdatedDataError(f"{path}: made with other tasks or targets than experiments/{gates.name}.py has now")
    return data


def write_gates_report(gates: Gates, data: dict[str, Any], reports: Path) -> tuple[Path, list[Gate]]:
    """Write report and figure; returns the report's path and the judged gates."""
    judged = judge_gates(gates, data)
    (reports / "figures").mkdir(parents=True, exist_ok=True)
    figure = f"{gates.name}_curves.png"
    _draw(gates, data, reports / "figures" / figure)
    text = environment().get_template("gates.md.j2").render(
        gates=gates, judged=judged, overall=overall(judged), data=data, figure=figure,
        polar_gigaflops=polar_operations(data) / 1e9,
        troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("steps_not_finite")],
    )  # fmt: skip
    path = reports / gates.report_name
    write_text(path, text)
    return path, judged


def _draw(gates: Gates, data: dict[str, Any], path: Path) -> None:
    """Loss curves of both optimizers, a panel a task, a thin line a seed."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 2, figsize=(11.0, 7.4))
        for axes, (task, label) in zip(grid.flat, PANELS.items(), strict=True):
            kind = "train" if task == "stability" else "val"
            rows = [row for row in data["runs"] if row["task"] == task and kind in row]
            for row in rows:
                axes.plot(row[kind]["step"], row[kind]["loss"], linewidth=1.2, **LOOKS[row["optimizer"]])
            if task == "race":
                _mark_race(axes, rows)
            axes.set(xlabel="step")
            axes.set_title(label, fontsize=9)
        for name, look in LOOKS.items():
            grid.flat[0].plot([], [], label=name, **look)
        grid.flat[0].legend(fontsize=8)
        save(figure, path)


def _mark_race(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """AdamW's mean final loss as a line, and the loss axis cut to what lies near it."""
    ends = [row["final_val_loss"] for row in rows if row["optimizer"] == "AdamW" and "final_val_loss" in row]
    if ends:
        axes.axhline(float(np.mean(ends)), color=COLOURS[1], linestyle=":", linewidth=1)
        axes.set_ylim(top=float(np.mean(ends)) + 1.0)
