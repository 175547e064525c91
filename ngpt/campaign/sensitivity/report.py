"""A study of sensitivity -> markdown and figures. The prose is in `templates/sensitivity.md.j2`. No torch."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis, analyze, ends_with_decay
from ngpt.campaign.analysis.verdict import Verdict
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.markdown import command_of, effect_of, signed, write_markdown
from ngpt.campaign.report.style import COLORS, Figure, save, style, subplots
from ngpt.campaign.sensitivity.analysis import SHARED, Findings, Scan, find
from ngpt.campaign.sensitivity.definition import Sensitivity

CUT = 3.0
"""smallest effects above zero at which heat maps end, so that one bad corner does not hide the rest"""


def write_sensitivity_report(
    study: Sensitivity, campaign: Campaign, data: dict[str, Any], reports: Path
) -> tuple[Path, Analysis, Findings]:
    """Write report and figures; return the report's path, the campaign's analysis and the study's numbers."""
    analysis = analyze(campaign, data)
    findings = find(study, analysis, data["preset"])
    (reports / "figures").mkdir(parents=True, exist_ok=True)
    files = {kind: f"{study.name}_{kind}.png" for kind in ("knobs", "surface")}
    with style():
        save(_draw_knobs(study, findings), reports / "figures" / files["knobs"])
        save(_draw_surfaces(study, findings), reports / "figures" / files["surface"])
    at_defaults = [summary for summary in analysis.summaries if summary.method.name in campaign.baselines]
    path = write_markdown(
        "sensitivity.md.j2", reports / campaign.report_name, study=study, campaign=campaign, analysis=analysis,
        data=data, findings=findings, files=files, budget=None,
        shared_question=SHARED, scan_cells=[(scan, _cells(scan), _foremost(scan)) for scan in findings.scans],
        most_values=max(len(scan.values) for scan in findings.scans),
        cost=_cost, judged_costs=sum(len(one.verdicts) for one in findings.compromises),
        troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("skipped_steps")],
        ends_with_decay=ends_with_decay(data["training"]), at_defaults=at_defaults,
        command_of=partial(command_of, data),
    )  # fmt: skip
    return path, analysis, findings


def _cells(scan: Scan) -> list[str]:
    """Return each value with its difference to the default and the interval; the best value in bold."""
    cells = []
    for value in scan.values:
        shown = "default" if value == scan.default else effect_of(scan.answers[value])
        cell = f"{value:.4g}: {shown}"
        cells.append(f"**{cell}**" if value == scan.best else cell)
    return cells


def _foremost(scan: Scan) -> str:
    """Return the state of the default, with the value that is better if it is off."""
    if scan.state != "off" or scan.best is None:
        return f"**{scan.state}**"
    return f"**off**: {scan.best:.4g}" + (" or beyond" if scan.at_edge else "")


def _cost(verdict: Verdict | None) -> str:
    """Return the cost with its interval; in bold where it is shown to matter."""
    e = None if verdict is None else verdict.effect
    if verdict is None or e is None:
        return "–"
    cell = "0" if e.mean == e.sd == 0 else f"{signed(e.mean)} [{signed(e.t_low)}, {signed(e.t_high)}]"
    return f"**{cell}**" if verdict.label == "supported" else cell


def _draw_knobs(study: Sensitivity, findings: Findings) -> Figure:
    """Draw every knob's difference to the default with its interval, one panel per knob, one line per method."""
    knobs = study.all_knobs()
    rows = math.ceil(len(knobs) / 4)
    figure, grid = subplots(12.0, 3.2 * rows, rows, 4, squeeze=False)
    smallest = study.rule.smallest_effect
    for axes, knob in zip(grid.flat, knobs, strict=False):
        axes.axhspan(-smallest, smallest, color="#000000", alpha=0.07, linewidth=0)
        for color, method in zip(COLORS, study.methods, strict=False):
            for scan in findings.scans:
                if scan.method == method and scan.knob is knob:
                    place = scan.values.index(scan.default)
                    effects = {scan.values.index(value): a.verdict.effect for value, a in scan.answers.items()}
                    found = {place: (0.0, 0.0)} | {
                        at: (e.mean, e.mean - e.t_low) for at, e in effects.items() if e is not None
                    }
                    at = np.array(sorted(found)) - place
                    means, bars = np.array([found[i + place] for i in at]).T
                    axes.errorbar(at, means, bars, marker="o", markersize=4, capsize=3, color=color, label=method)
        scans = [scan for scan in findings.scans if scan.knob is knob]
        steps = range(len(scans[0].values))
        labels = ["\n".join(dict.fromkeys(f"{scan.values[i]:.3g}" for scan in scans)) for i in steps]
        axes.set_xticks([i - scans[0].values.index(scans[0].default) for i in steps], labels)
        axes.set(title=knob.name)
    for axes in list(grid.flat)[len(knobs) :]:
        axes.set_axis_off()
    grid[0, 0].legend()
    for axes in grid[:, 0]:
        axes.set_ylabel(f"difference to the default\n[{study.rule.unit}]")
    return figure


def _draw_surfaces(study: Sensitivity, findings: Findings) -> Figure:
    """Draw for every method the mean difference to its defaults over the grid of the surface's two knobs."""
    first, second = study.surface
    figure, grid = subplots(3.6 * len(study.methods), 3.2, 1, len(study.methods), squeeze=False)
    limit = CUT * study.rule.smallest_effect
    for axes, (method, (rows, columns, table)) in zip(grid.flat, findings.surfaces.items(), strict=True):
        axes.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            color = "#FFFFFF" if abs(value) > 0.7 * limit else "#000000"
            axes.text(j, i, signed(value, 3) if np.isfinite(value) else "–", ha="center", va="center", color=color)
        axes.set_xticks(range(len(columns)), [f"{value:.4g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:.4g}" for value in rows])
        axes.set(title=method, xlabel=second.name)
        axes.grid(visible=False)
    grid[0, 0].set_ylabel(first.name)
    return figure
