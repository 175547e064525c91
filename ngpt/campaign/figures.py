"""The figures of a report. One style for all of them; colours are the method's, in the order of the experiment file."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

from ngpt.campaign.analysis import Analysis, MethodSummary
from ngpt.campaign.definition import Campaign

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend comes first)
from matplotlib.axes import Axes  # noqa: E402

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

STYLE: dict[Any, Any] = {
    "figure.dpi": 130,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}

TELEMETRY_LABELS = {
    "rotation_hidden_rad": "rotation of hidden vectors\nper step [rad]",
    "radial_share_hidden": "radial share\nof hidden updates",
    "drift_max": "largest | |w| - 1 |\nremoved by a projection",
    "orthogonality_error": "orthogonality error\nof hidden updates",
}


def draw_figures(campaign: Campaign, analysis: Analysis, data: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write all figures as PNG into `folder`; returns file name by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: f"{campaign.name}_{kind}.png" for kind in ("loss_against_lr", "loss_curves", "telemetry")}
    with plt.rc_context(STYLE):
        _loss_against_lr(campaign, analysis, folder / files["loss_against_lr"])
        _loss_curves(analysis, data, folder / files["loss_curves"])
        if not _telemetry(analysis, folder / files["telemetry"]):
            del files["telemetry"]
    return files


def _interval(values: np.ndarray) -> np.ndarray:
    """Half-width of the 95% t interval of the mean along axis 0."""
    n = len(values)
    return stats.t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(values.shape[1:])


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _loss_against_lr(campaign: Campaign, analysis: Analysis, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7.0, 4.2))
    for index, summary in enumerate(analysis.summaries):
        if not len(summary.tuning):
            continue
        lrs = np.array(summary.method.lrs)
        whole = np.isfinite(summary.tuning).all(axis=0)
        table = summary.tuning[:, whole]
        label = f"{summary.method.name} ({len(table)} tuning seeds)"
        axes.errorbar(
            lrs[whole],
            table.mean(axis=0),
            yerr=_interval(table),
            marker="o",
            capsize=3,
            color=_colour(index),
            label=label,
        )
        for seed_row in table:
            axes.plot(lrs[whole], seed_row, ".", color=_colour(index), alpha=0.35, markersize=4)
        for lr in lrs[~whole]:
            axes.plot(lr, 1.0, "x", color=_colour(index), transform=axes.get_xaxis_transform(), clip_on=False)
        if summary.optimum is not None and not summary.optimum.at_edge:
            axes.axvline(summary.optimum.lr, color=_colour(index), linestyle=":", linewidth=1)
            if summary.optimum.lr_low is not None and summary.optimum.lr_high is not None:
                axes.axvspan(
                    summary.optimum.lr_low, summary.optimum.lr_high, color=_colour(index), alpha=0.08, linewidth=0
                )
    axes.set(xscale="log", xlabel="learning rate of the hidden matrices")
    axes.set_ylabel(f"{campaign.rule.metric} [{campaign.rule.unit}]")
    title = "Mean and 95% interval over seeds; dotted: fitted optimum, shaded: its range over resampled seeds"
    axes.set_title(title, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path)
    plt.close(figure)


def _loss_curves(analysis: Analysis, data: dict[str, Any], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8))
    for index, summary in enumerate(analysis.summaries):
        rows = [
            r for r in data["runs"] if r["stage"] == "comparison" and r["method"] == summary.method.name and "val" in r
        ]
        if not rows:
            continue
        label = f"{summary.method.name}, lr {summary.chosen_lr:g} ({len(rows)} seeds)"
        for axes, kind in ((left, "train"), (right, "val")):
            _band(axes, [row[kind] for row in rows], _colour(index), label)
    left.set(xlabel="step", ylabel="training loss [nats per token]")
    right.set(xlabel="step", ylabel="validation loss [nats per token]")
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize=8)
    figure.suptitle("Each method at its best rate, on the comparison seeds: mean, and range over seeds", fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def _band(axes: Axes, curves: list[dict[str, list[float]]], colour: str, label: str) -> None:
    length = min(len(curve["step"]) for curve in curves)
    if not length:
        return
    step = np.array(curves[0]["step"][:length])
    losses = np.array([curve["loss"][:length] for curve in curves])
    axes.plot(step, losses.mean(axis=0), color=colour, label=label, marker="o" if length < 12 else None, markersize=3)
    axes.fill_between(step, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def _telemetry(analysis: Analysis, path: Path) -> bool:
    shown = [name for name in TELEMETRY_LABELS if any(name in s.telemetry for s in analysis.summaries)]
    if not shown:
        return False
    figure, grid = plt.subplots(1, len(shown), figsize=(3.2 * len(shown), 3.2))
    for axes, name in zip(np.atleast_1d(grid), shown, strict=True):
        for index, summary in enumerate(analysis.summaries):
            _quantity(axes, summary, name, _colour(index))
        axes.set(xlabel="step", yscale="log" if name != "radial_share_hidden" else "linear")
        axes.set_title(TELEMETRY_LABELS[name], fontsize=9)
    np.atleast_1d(grid)[0].legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)
    return True


def _quantity(axes: Axes, summary: MethodSummary, name: str, colour: str) -> None:
    if name in summary.telemetry:
        step, mean = summary.telemetry[name]
        axes.plot(
            step, mean, color=colour, marker="o", markersize=3, label=f"{summary.method.name}, lr {summary.chosen_lr:g}"
        )
