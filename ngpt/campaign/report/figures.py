"""The figures of a report, in one style; each method has its own color, in the order of the experiment file."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ngpt.campaign.analysis.analyze import Analysis, MethodSummary
from ngpt.campaign.analysis.statistics import LrOptimum
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.style import (
    COLORS,
    LINES,
    WORD_COLORS,
    Axes,
    Figure,
    colormaps,
    save,
    style,
    subplots,
)

Look = dict[str, Any]
"""color and line style of a method, the same in every figure"""

LABELS = {
    "rotation_hidden_rad": "rotation of hidden vectors\nper step [rad]",
    "radial_share_hidden": "radial share\nof hidden updates",
    "drift_hidden": "largest | |w| - 1 | of hidden\nvectors when a projection came",
    "orthogonality_error": "orthogonality error\nof hidden updates",
    "drift_head": "largest | |w| - 1 | of head\nvectors when a projection came",
    "drift_embedding": "largest | |w| - 1 | of embedding\nvectors when a projection came",
}
OVER_STEPS = ("rotation_hidden_rad", "radial_share_hidden", "drift_hidden", "orthogonality_error")
ALONG_A_SCAN = ("rotation_hidden_rad", "drift_hidden", "drift_head", "drift_embedding")


def draw_figures(campaign: Campaign, analysis: Analysis, data: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write every figure that has something to show as PNG into `folder`; return file names by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    looks = _looks(campaign)
    kinds: dict[str, Callable[[], Figure | None]] = {
        "effects": lambda: _effects(analysis), "scan": lambda: _scan(campaign, analysis),
        "loss_against_lr": lambda: _loss_against_lr(campaign, analysis, looks),
        "loss_against_aux_lr": lambda: _loss_against_aux_lr(campaign, analysis, looks),
        "loss_curves": lambda: _loss_curves(analysis, data, looks),
        "pace": lambda: _pace(campaign, analysis, data, looks),
        "telemetry": lambda: _telemetry(analysis, looks), "automata": lambda: _automata(data.get("automata", {})),
    }  # fmt: skip
    files = {}
    with style():
        for kind, draw in kinds.items():
            figure = draw()
            if figure is not None:
                files[kind] = f"{campaign.name}_{kind}.png"
                save(figure, folder / files[kind])
    return files


def _looks(campaign: Campaign) -> dict[str, Look]:
    """Return a color for each method; in a scan the color shows the position and the line style the family.

    With more methods than colors, equal places in two families have equal colors, and the line style shows the family.
    """
    families = list(dict.fromkeys(method.family for method in campaign.methods))
    many, seen = _in_panels(campaign), Counter[str]()
    positions = sorted({method.position for method in campaign.methods if method.position is not None})
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(positions)))
    looks: dict[str, Look] = {}
    for index, method in enumerate(campaign.methods):
        place = method.position
        number = seen[method.family] if many else index
        color = COLORS[number % len(COLORS)] if place is None else shades[positions.index(place)]
        line = families.index(method.family) + (number // len(COLORS) if place is None else 0)
        seen[method.family] += 1
        looks[method.name] = {"color": color, "linestyle": LINES[line % len(LINES)]}
    return looks


def _in_panels(campaign: Campaign) -> bool:
    """Return whether each family has a panel of its own: there are more methods than colors, and no scan."""
    families = {method.family for method in campaign.methods}
    scan = any(method.position is not None for method in campaign.methods)
    return len(campaign.methods) > len(COLORS) and len(families) > 1 and not scan


def _height(methods: int, least: float) -> float:
    """Return the height in inches of a figure whose legend has a line for each method."""
    return max(least, 0.6 + 0.19 * methods)


def _interval(values: np.ndarray) -> np.ndarray:
    """Return the half-width of the 95% t interval of the mean along axis 0."""
    n = len(values)
    return stats.t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(values.shape[1:])


def _legend(axes: Axes) -> None:
    """Add a legend, beside the axes if there are many methods."""
    handles = axes.get_legend_handles_labels()[0]
    if handles:
        beside: dict[str, Any] = {"bbox_to_anchor": (1.01, 1.0), "loc": "upper left"} if len(handles) > 3 else {}
        axes.legend(**beside)


def _effects(analysis: Analysis) -> Figure | None:
    """Draw every comparison's difference with its interval, over the band of differences that do not matter."""
    shown = [answer for answer in reversed(analysis.answers) if answer.verdict.effect is not None]
    if len(shown) < 2:
        return None
    figure, axes = subplots(9.0, 1.2 + 0.32 * len(shown))
    for place, answer in enumerate(shown):
        e, smallest = answer.verdict.effect, answer.contrast.rule.smallest_effect
        assert e is not None
        if place and answer.contrast.question != shown[place - 1].contrast.question:
            axes.axhline(place - 0.5, color="#000000", linewidth=0.6, linestyle=":")
        color = WORD_COLORS[answer.verdict.word]
        axes.fill_betweenx([place - 0.4, place + 0.4], -smallest, smallest, color="#000000", alpha=0.07, linewidth=0)
        axes.plot([e.t_low, e.t_high], [place, place], color=color, linewidth=2)
        axes.plot(e.mean, place, "o", color=color, markersize=5)
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [answer.contrast.name for answer in shown], fontsize=8)
    for label, color in WORD_COLORS.items():
        axes.plot([], [], color=color, linewidth=2, label=label)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    title = "Paired difference, mean and 95% interval; gray: too small to matter"
    axes.set(xlabel=f"difference [{shown[0].contrast.rule.unit}]", title=title)
    return figure


def _scan(campaign: Campaign, analysis: Analysis) -> Figure | None:
    """Draw loss, cost against the baseline, and telemetry along the methods' positions, one line per family."""
    scanned = [s for s in analysis.summaries if s.method.position is not None and np.isfinite(s.comparison).sum() > 1]
    if not scanned:
        return None
    base = {s.method.name: s.comparison for s in analysis.summaries}
    panels: dict[str, Callable[[MethodSummary], np.ndarray]] = {
        f"{campaign.rule.metric}\n[{campaign.rule.unit}]": lambda s: s.comparison,
        "difference to the baseline,\npaired, 95% interval":
            lambda s: s.comparison - base[campaign.baseline_of(s.method)],
        **{LABELS[name]: partial(_mean_telemetry, name) for name in ALONG_A_SCAN},
    }  # fmt: skip
    figure, grid = subplots(10.5, 6.0, 2, 3)
    for axes, (label, measure) in zip(grid.flat, panels.items(), strict=True):
        for number, family in enumerate(dict.fromkeys(s.method.family for s in scanned)):
            members = [s for s in scanned if s.method.family == family]
            values = [found[np.isfinite(found)] for found in map(measure, members)]
            axes.errorbar(
                [s.method.position for s in members], [v.mean() if v.size else np.nan for v in values],
                yerr=[_interval(v) for v in values], marker="o", capsize=3, markersize=4, color=COLORS[number],
                label=family,
            )  # fmt: skip
        axes.set(title=label, xlabel=campaign.axis)
    smallest = campaign.rule.smallest_effect
    grid.flat[1].axhspan(-smallest, smallest, color="#000000", alpha=0.07, linewidth=0)
    grid.flat[0].legend()
    return figure


def _mean_telemetry(name: str, summary: MethodSummary) -> np.ndarray:
    """Return the mean of a quantity over the measured steps (1,), so that no interval is shown."""
    return np.nanmean(summary.telemetry[name][1], keepdims=True) if name in summary.telemetry else np.empty(0)


def _loss_against_lr(campaign: Campaign, analysis: Analysis, looks: dict[str, Look]) -> Figure:
    curves = [(s.method.name, s.method.lrs, s.tuning, s.optimum) for s in analysis.summaries]
    return _loss_against_rate(campaign, curves, looks, "learning rate of the hidden matrices")


def _loss_against_aux_lr(campaign: Campaign, analysis: Analysis, looks: dict[str, Look]) -> Figure | None:
    curves = [(s.method.name, campaign.aux_lrs, s.aux_tuning, s.aux_optimum) for s in analysis.summaries]
    if not any(table.size for _, _, table, _ in curves):
        return None
    label = "auxiliary learning rate, each method at its chosen hidden rate"
    return _loss_against_rate(campaign, curves, looks, label)


def _loss_against_rate(
    campaign: Campaign, curves: list[tuple[str, tuple[float, ...], np.ndarray, LrOptimum | None]],
    looks: dict[str, Look], label: str,
) -> Figure:  # fmt: skip
    """Draw loss against a rate: of each method its name, its grid, its results (seeds, rates) and its optimum."""
    family_of = {method.name: method.family for method in campaign.methods}
    tried = {family_of[name] for name, grid, tuning, _ in curves if grid and len(tuning)}  # not those at others' rates
    families = [family for family in dict.fromkeys(family_of.values()) if family in tried]
    if _in_panels(campaign) and len(families) > 1:
        figure, panels = subplots(12.0, 5.2, 1, len(families), sharey=True)
        for axes, family in zip(panels, families, strict=True):
            _draw_rates(axes, [one for one in curves if family_of[one[0]] == family], looks, few=False, room=0.4)
            axes.set(xlabel=label, title=family)
        panels[0].set_ylabel(f"{campaign.rule.metric} [{campaign.rule.unit}]")
        figure.suptitle("Mean and 95% interval over seeds")
        figure.legend(loc="outside lower center", ncols=len(families))
        return figure
    few = len(curves) < 4
    figure, axes = subplots(7.0 if few else 9.0, 4.2)
    _draw_rates(axes, curves, looks, few=few, room=1.0)
    lines = "; dotted: fitted optimum, shaded: its range over resampled seeds" if few else ""
    axes.set(
        xlabel=label, title=f"Mean and 95% interval over seeds{lines}",
        ylabel=f"{campaign.rule.metric} [{campaign.rule.unit}]",
    )  # fmt: skip
    _legend(axes)
    return figure


def _draw_rates(
    axes: Axes, curves: list[tuple[str, tuple[float, ...], np.ndarray, LrOptimum | None]], looks: dict[str, Look], *,
    few: bool, room: float,
) -> None:  # fmt: skip
    """Draw one curve per method. few: with fitted optima. room: width of the axes relative to a figure of one panel."""
    for name, grid, tuning, o in curves:
        if not len(tuning):
            continue
        look = looks[name]
        lrs = np.array(grid)
        whole = np.isfinite(tuning).all(axis=0)
        table = tuning[:, whole]
        label = f"{name} ({len(table)} tuning seeds)"
        axes.errorbar(lrs[whole], table.mean(axis=0), yerr=_interval(table), marker="o", capsize=3, label=label, **look)
        axes.plot(lrs[whole], table.T, ".", color=look["color"], alpha=0.35, markersize=4)
        for lr in lrs[~whole]:
            axes.plot(lr, 1.0, "x", color=look["color"], transform=axes.get_xaxis_transform(), clip_on=False)
        if few and o is not None and not o.at_edge:
            axes.axvline(o.lr, color=look["color"], linestyle=":", linewidth=1)
            if o.lr_low is not None and o.lr_high is not None:
                axes.axvspan(o.lr_low, o.lr_high, color=look["color"], alpha=0.08, linewidth=0)
    axes.set_xscale("log")
    _name_rates(axes, sorted({lr for _, grid, _, _ in curves for lr in grid}), room)


def _name_rates(axes: Axes, rates: list[float], room: float) -> None:
    """Put ticks at the rates that were tried, except where their labels would overlap."""
    shown = rates[:1]
    width = max(0.09, 0.018 * max(len(f"{rate:g}") for rate in rates)) / room
    for rate in rates[1:]:
        if np.log10(rate / shown[-1]) > width * np.log10(rates[-1] / rates[0]):
            shown.append(rate)
    axes.set_xticks(shown, [f"{rate:g}" for rate in shown])
    axes.set_xticks([], minor=True)


def _loss_curves(analysis: Analysis, data: dict[str, Any], looks: dict[str, Look]) -> Figure:
    few = len(analysis.summaries) < 4
    figure, (left, right) = subplots(9.0 if few else 12.0, _height(len(analysis.summaries), 3.8), 1, 2)
    compared = [row for row in data["runs"] if row["stage"] == "comparison" and "val" in row]
    for summary in analysis.summaries:
        rows = [row for row in compared if row["method"] == summary.method.name]
        if not rows:
            continue
        label = f"{summary.method.name}, {summary.chosen} ({len(rows)} seeds)"
        for axes, kind in ((left, "train"), (right, "val")):
            _band(axes, [row[kind] for row in rows], looks[summary.method.name], label)
    left.set(xlabel="step", ylabel="training loss [nats per token]")
    right.set(xlabel="step", ylabel="validation loss [nats per token]")
    _legend(right)
    figure.suptitle("Each method at its best rate, on the comparison seeds: mean, and range over seeds")
    return figure


def _band(axes: Axes, curves: list[dict[str, list[float]]], look: Look, label: str) -> None:
    """Draw mean and range over seeds, over the steps that all have; runs that end by the clock are interpolated."""
    curves = [curve for curve in curves if curve["step"]]
    if not curves:
        return
    step = np.array(curves[0]["step"])
    if any(curve["step"] != curves[0]["step"] for curve in curves):
        step = np.linspace(max(c["step"][0] for c in curves), min(c["step"][-1] for c in curves), len(step))
    losses = np.array([np.interp(step, curve["step"], curve["loss"]) for curve in curves])
    axes.plot(step, losses.mean(axis=0), label=label, marker="o" if len(step) < 12 else None, markersize=3, **look)
    axes.fill_between(step, losses.min(axis=0), losses.max(axis=0), color=look["color"], alpha=0.15, linewidth=0)


def _pace(campaign: Campaign, analysis: Analysis, data: dict[str, Any], looks: dict[str, Look]) -> Figure | None:
    """Draw validation loss against steps and against time, and its paired difference to the baseline."""
    runs: dict[str, dict[int, dict[str, Any]]] = {s.method.name: {} for s in analysis.summaries}
    for row in data["runs"]:
        if row["stage"] == "comparison" and len(row.get("val", {}).get("seconds", [])) > 1:
            runs[row["method"]][row["seed"]] = row["val"]
    if data["training"].get("budget_seconds") is None or not any(runs.values()):
        return None
    figure, grid = subplots(12.5, 8.0, 2, 2, sharex="col")
    for column, (axis, label) in enumerate({"step": "step", "seconds": "training time [s]"}.items()):
        low = max(curve[axis][0] for curves in runs.values() for curve in curves.values())
        high = min(curve[axis][-1] for curves in runs.values() for curve in curves.values())
        place = np.linspace(low, high, 60)
        losses = {name: {seed: np.interp(place, curve[axis], curve["loss"]) for seed, curve in curves.items()}
                  for name, curves in runs.items()}  # fmt: skip
        for summary in analysis.summaries:
            name, baseline = summary.method.name, losses[campaign.baseline_of(summary.method)]
            common = sorted(set(losses[name]) & set(baseline))
            if common:
                mine, base = (np.array([one[seed] for seed in common]).mean(axis=0) for one in (losses[name], baseline))
                grid[0, column].plot(place, mine, label=name, **looks[name])
                grid[1, column].plot(place, mine - base, label=name, **looks[name])
        grid[1, column].set_xlabel(label)
    grid[0, 0].set_ylabel("validation loss [nats per token]")
    grid[1, 0].set_ylabel("difference to the baseline [nats per token]")
    _legend(grid[0, 1])
    figure.suptitle("Mean over the comparison seeds, up to where the shortest run ends")
    return figure


def _telemetry(analysis: Analysis, looks: dict[str, Look]) -> Figure | None:
    shown = [name for name in OVER_STEPS if any(name in s.telemetry for s in analysis.summaries)]
    if not shown:
        return None
    height = _height(len(analysis.summaries), 3.2)
    figure, grid = subplots(3.2 * len(shown) + 2.4, height, 1, len(shown), squeeze=False)
    for axes, name in zip(grid[0], shown, strict=True):
        for summary in analysis.summaries:
            if name in summary.telemetry:
                step, mean = summary.telemetry[name]
                label = f"{summary.method.name}, {summary.chosen}"
                axes.plot(step, mean, marker="o", markersize=3, label=label, **looks[summary.method.name])
        scale = "log" if name != "radial_share_hidden" else "linear"
        axes.set(xlabel="step", yscale=scale, title=LABELS[name])
    _legend(axes)
    return figure


def _automata(described: dict[str, dict[str, Any]]) -> Figure | None:
    """Draw some trajectories of the first automaton, a row each, and the gzip ratios of all sampled rules."""
    if not described:
        return None
    automaton = next(iter(described.values()))
    shown = np.array(automaton["trajectories"])
    rows, columns = shown.shape[:2]
    figure = Figure(figsize=(1.1 * columns + 4.0, 1.15 * rows + 0.5))
    grid = figure.add_gridspec(rows, columns + 4)
    for row, column in np.ndindex(rows, columns):
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(shown[row, column], cmap="viridis", vmin=0, vmax=automaton["states"] - 1)
        axes.set(xticks=[], yticks=[])
        axes.set_title("" if row else f"grid {column + 1}", fontsize=8)
        axes.set_ylabel("" if column else f"rule {row + 1}", fontsize=8)
    axes = figure.add_subplot(grid[:, columns:])
    axes.hist(automaton["ratios"], bins=30, color="#999999")
    axes.axvspan(automaton["ratio_low"], automaton["ratio_high"], color="#009E73", alpha=0.15, linewidth=0)
    axes.set(xlim=(0, max(automaton["ratios"]) * 1.1), xlabel="gzip ratio; green: kept", ylabel="rules drawn")
    return figure
