"""A study of sensitivity -> markdown and figures. The prose is in `templates/sensitivity.md.j2`. No torch."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis, analyze, ends_with_decay
from ngpt.campaign.analysis.verdict import Verdict
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.markdown import command_of, write_markdown
from ngpt.campaign.report.style import COLORS, Axes, Figure, save, style, subplots
from ngpt.campaign.report.words import effect_of, signed
from ngpt.campaign.sensitivity.analysis import TUNING_QUESTION, Findings, Moved, Scan, find
from ngpt.campaign.sensitivity.definition import Knob, Sensitivity

CUT = 3.0
"""smallest effects at which figures end, so that one bad value does not hide the rest"""

COLUMNS = 4
"""panels in a row"""


def write_sensitivity_report(
    study: Sensitivity, campaign: Campaign, data: dict[str, Any], reports: Path
) -> tuple[Path, Analysis, Findings]:
    """Write report and figures; return the report's path, the campaign's analysis and the study's numbers."""
    analysis = analyze(campaign, data)
    findings = find(study, analysis, data)
    (reports / "figures").mkdir(parents=True, exist_ok=True)
    files = {kind: f"{study.name}_{kind}.png" for kind in ("knobs", "surface")}
    with style():
        save(_draw_knobs(study, findings), reports / "figures" / files["knobs"])
        save(_draw_surfaces(study, findings), reports / "figures" / files["surface"])
    path = write_markdown(
        "sensitivity.md.j2", reports / campaign.report_name, study=study, campaign=campaign, analysis=analysis,
        data=data, findings=findings, files=files, budget=None, tuning_question=TUNING_QUESTION,
        cut=CUT * study.rule.smallest_effect,
        scan_cells=[(scan, _cells(scan), _state(scan)) for scan in findings.scans],
        surface_cells=[(scan, _place(scan.best), _state(scan)) for scan in findings.surfaces],
        most_values=max(len(scan.grids[0]) for scan in findings.scans),
        cost=_cost, judged_costs=sum(len(one.verdicts) for one in findings.compromises),
        troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("skipped_steps")],
        ends_with_decay=ends_with_decay(data["training"]), command_of=partial(command_of, data),
        at_defaults=[summary for summary in analysis.summaries if summary.method.name in campaign.baselines],
    )  # fmt: skip
    return path, analysis, findings


def _cells(scan: Scan) -> list[str]:
    """Return each value with its difference from the default and the interval, in bold if it is better by the rule."""
    places = {one.values: one for one in scan.moved}
    return [_place(places.get((value,))) or f"{value:.6g}: default" for value in scan.grids[0]]


def _place(one: Moved | None) -> str:
    """Return a place with its difference from the default and the interval, in bold if it is better by the rule."""
    if one is None:
        return ""
    missing = one.answer.result.n_missing
    found = f"diverged on {one.diverged} seeds" if one.diverged else effect_of(one.answer)
    found += f" ({missing} seeds missing)" if missing and not one.diverged else ""
    cell = f"{', '.join(f'{value:.6g}' for value in one.values)}: {found}"
    return f"**{cell}**" if one.answer.verdict.word == "better" else cell


def _state(scan: Scan) -> str:
    """Return the state of the default; if it is off, with the best of the values that are better by the rule."""
    if scan.state != "off" or scan.best is None:
        return f"**{scan.state}**"
    values = ", ".join(f"{value:.6g}" for value in scan.best.values)
    return f"**off**: {values}" + (" or beyond" if scan.at_edge(scan.best) else "")


def _cost(verdict: Verdict | None) -> str:
    """Return a cost with its interval; in bold where it is shown to matter."""
    e = None if verdict is None else verdict.effect
    if verdict is None or e is None:
        return "–"
    cell = "0" if e.mean == e.sd == 0 else f"{signed(e.mean)} [{signed(e.t_low)}, {signed(e.t_high)}]"
    return f"**{cell}**" if verdict.word == "worse" else cell


def _draw_knobs(study: Sensitivity, findings: Findings) -> Figure:
    """Draw every knob's difference from the default with its interval, one panel per knob, one line per method."""
    knobs, colors = study.all_knobs(), dict(zip(study.methods, COLORS * len(study.methods), strict=False))
    rows = math.ceil((len(knobs) + 1) / COLUMNS)
    figure, grid = subplots(12.0, 3.2 * rows, rows, COLUMNS, squeeze=False)
    panels = list(grid.flat)
    for axes, knob in zip(panels, knobs, strict=False):
        _draw_knob(axes, knob, [scan for scan in findings.scans if scan.knobs == (knob,)], study, colors)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"difference from the default\n[{study.rule.unit}]")
    for axes in panels[len(knobs) :]:
        axes.set_axis_off()
    for method, color in colors.items():
        panels[len(knobs)].plot([], [], marker="o", markersize=4, color=color, label=method)
    panels[len(knobs)].legend(loc="center")
    return figure


def _draw_knob(axes: Axes, knob: Knob, scans: list[Scan], study: Sensitivity, colors: dict[str, str]) -> None:
    """Draw one knob: its values at equal distances, the default in the middle, what is out of sight cut off."""
    smallest = study.rule.smallest_effect
    limit = CUT * smallest
    axes.axhspan(-smallest, smallest, color="#000000", alpha=0.07, linewidth=0)
    ticks: dict[int, list[str]] = {}
    for scan in scans:
        values, usual = scan.grids[0], scan.grids[0].index(scan.default[0])
        effects = {values.index(one.values[0]): one.answer.verdict.effect for one in scan.moved}
        places = [place for place in range(len(values)) if place == usual or effects[place] is not None]
        means = np.array([0.0 if (e := effects.get(place)) is None else e.mean for place in places])
        bars = np.array([0.0 if (e := effects.get(place)) is None else e.mean - e.t_low for place in places])
        at = np.array(places) - usual
        axes.errorbar(at, means, bars, marker="o", markersize=4, capsize=3, color=colors[scan.method])
        for place, value in enumerate(values):
            ticks.setdefault(place - usual, []).append(f"{value:.6g}")
    labels = {place: texts if len({*texts}) > 1 else texts[:1] for place, texts in ticks.items()}
    axes.set_xticks(list(labels), ["\n".join(texts) for texts in labels.values()])
    low, high = axes.get_ylim()
    axes.set(title=knob.name, ylim=(max(low, -limit), min(high, limit)))


def _draw_surfaces(study: Sensitivity, findings: Findings) -> Figure:
    """Draw for every method the mean difference from its defaults over the grid of the surface's two knobs."""
    first, second = study.surface
    figure, grid = subplots(3.6 * len(study.methods), 3.2, 1, len(study.methods), squeeze=False)
    limit = CUT * study.rule.smallest_effect
    for axes, scan in zip(grid.flat, findings.surfaces, strict=True):
        (rows, columns), table = scan.grids, scan.differences
        axes.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            color = "#FFFFFF" if abs(value) > 0.7 * limit else "#000000"
            axes.text(j, i, signed(value, 3) if np.isfinite(value) else "–", ha="center", va="center", color=color)
        axes.set_xticks(range(len(columns)), [f"{value:.6g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:.6g}" for value in rows])
        axes.set(title=scan.method, xlabel=second.name)
        axes.grid(visible=False)
    grid[0, 0].set_ylabel(first.name)
    return figure
