"""The validation loss of methods with different optimizers against tokens and against training time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngpt.campaign.analysis.analyze import Analysis, Row, machine_of
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.figures.looks import looks_of, standing_out
from ngpt.campaign.report.figures.marks import End, headline, label_ends
from ngpt.campaign.report.style import INK, LINES, WIDTH, Figure, subplots
from ngpt.campaign.report.words import tokens_of

MOST = 3
"""comparisons in one figure; with more there is none"""

SHOWN_FROM = 0.15
"""share of training from which the loss is in view; before, it falls too far to see a lead at the end"""


def draw_curves(campaign: Campaign, analysis: Analysis, data: dict[str, Any]) -> Figure | None:
    """Draw methods that are compared with one of another optimizer: mean loss against tokens and training time.

    Time is a share of the whole training of the first that others are compared with, on the same seed and machine; its
    final loss is dotted. None without such methods or with many, and where runs end by the clock.
    """
    optimizers = {method.name: method.fields.get("optimizer") for method in campaign.methods}
    pairs = [(method.name, campaign.rival_of(method)) for method in campaign.methods]
    pairs = [(one, other) for one, other in pairs if optimizers[one] != optimizers[other]]
    names = list(dict.fromkeys(name for pair in pairs for name in pair[::-1]))
    if not 0 < len(pairs) <= MOST or data["training"].get("budget_seconds") is not None:
        return None
    base = _runs(data, pairs[0][1])
    curves = {name: found for name in names if (found := _curve(_runs(data, name), base, data)) is not None}
    if names[0] not in curves:
        return None
    base_step, base_loss, _ = curves[names[0]]
    looks, strong = looks_of(campaign), standing_out(campaign, analysis, names)
    figure, grid = subplots(WIDTH, 3.9, 1, 2, sharey=True)
    ends: dict[Any, list[End]] = {axes: [] for axes in grid}
    tokens = tokens_of(data) / data["training"]["steps"] / 1e6
    for name, (step, loss, time) in curves.items():
        look, stands = looks[name], name in strong
        for axes, x in zip(grid, (step * tokens, time), strict=True):
            axes.plot(x, loss, label=name, marker="o", markersize=3.2, **look.of_line(stands))
            text = f"{name}  {loss[-1]:.3f}"
            ends[axes].append(End(x=float(x[-1]), y=float(loss[-1]), text=text, look=look, strong=stands))
    for axes in grid:
        axes.axhline(base_loss[-1], color=INK, linewidth=1.0, linestyle=LINES[2], zorder=1.5)
    late = [loss[step >= SHOWN_FROM * base_step[-1]] for step, loss, _ in curves.values()]
    low, high = min(float(part.min()) for part in late), max(float(part.max()) for part in late)
    grid[0].set_ylim(low - 0.05 * (high - low), high)
    grid[0].set(xlabel="training tokens [millions]", ylabel="validation loss\n[nats per token]")
    grid[1].set_xlabel(f"training time, share of that of {pairs[0][1]}")
    headline(figure, f"Mean validation loss over seeds at the chosen rates; dotted: the final loss of {pairs[0][1]}")
    label_ends(figure, ends)
    return figure


def _runs(data: dict[str, Any], method: str) -> dict[int, Row]:
    """Return the comparison runs of a method that came to their end, by seed."""
    return {row["seed"]: row for row in data["runs"] if row["stage"] == "comparison" and row["method"] == method
            and row["status"] == "done" and row.get("val", {}).get("seconds")}  # fmt: skip


def _curve(mine: dict[int, Row], base: dict[int, Row], data: dict[str, Any]) -> tuple[NDArray[np.float64], ...] | None:
    """Return steps, mean loss over seeds, and time as a share of the base's whole time on the seed, median over seeds.

    None if runs were validated at different steps, or on no seed on the machine of the base's run.
    """
    beside = [seed for seed in mine if seed in base and machine_of(mine[seed], data) == machine_of(base[seed], data)]
    steps = [row["val"]["step"] for row in mine.values()]
    if not beside or any(step != steps[0] for step in steps):
        return None
    losses = np.array([row["val"]["loss"] for row in mine.values()])
    times = [np.array(mine[seed]["val"]["seconds"]) / base[seed]["val"]["seconds"][-1] for seed in beside]
    return np.array(steps[0], np.float64), losses.mean(axis=0), np.median(times, axis=0)
