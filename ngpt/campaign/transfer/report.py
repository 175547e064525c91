"""A study of rates across widths -> markdown and figures. The prose is in `templates/transfer.md.j2`. No torch."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis, analyze, ends_with_decay
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.figures.looks import looks_of_names
from ngpt.campaign.report.figures.marks import half_width, headline, log_ticks, name_ticks
from ngpt.campaign.report.markdown import command_of, speaks_of, write_markdown
from ngpt.campaign.report.style import (
    GRAY,
    INK,
    LINES,
    WIDTH,
    Axes,
    Figure,
    Line2D,
    colormaps,
    save,
    style,
    subplots,
    to_hex,
)
from ngpt.campaign.report.words import signed, tokens_of
from ngpt.campaign.transfer.analysis import NEAR, Estimate, Scaling, Scan, find
from ngpt.campaign.transfer.definition import Transfer
from ngpt.cost import hidden_entries

HIGHEST = 0.25
"""nats per token above the best rate tried, at which panels end"""


def write_transfer_report(
    study: Transfer, campaign: Campaign, data: dict[str, Any], reports: Path
) -> tuple[Path, Analysis, list[Scaling]]:
    """Write report and figures; return the report's path, the campaign's analysis and the study's numbers."""
    analysis, found = analyze(campaign, data), find(study, data)
    (reports / "figures").mkdir(parents=True, exist_ok=True)
    files = {kind: f"{study.name}_{kind}.png" for kind in ("best", "scans")}
    with style():
        save(_draw_best(study, found), reports / "figures" / files["best"])
        save(_draw_scans(study, found), reports / "figures" / files["scans"])
    as_run = study.at(study.preset)
    middle = {summary.method.family: summary for summary in analysis.summaries
              if summary.method.name in campaign.baselines}  # fmt: skip
    path = write_markdown(
        "transfer.md.j2", reports / campaign.report_name, study=study, campaign=campaign, analysis=analysis, data=data,
        own=speaks_of(as_run, as_run.configure(as_run.arms()[0], 0, {}, study.preset), data,
                      complete=analysis.complete),
        found=found, files=files, budget=None, exponent_text=exponent_text, best_text=best_text, cost_text=_cost_text,
        cells_of=_cells_of,
        troubled=[row for row in data["runs"] if row["status"] != "done" or row.get("skipped_steps")],
        ends_with_decay=ends_with_decay(data["training"]), command_of=partial(command_of, data),
        near=NEAR, tokens=_tokens_per_parameter(study, data),
        at_base=[middle[f"{one.method}, {study.base} wide"] for one in found],
    )  # fmt: skip
    return path, analysis, found


def _tokens_per_parameter(study: Transfer, data: dict[str, Any]) -> str:
    """Return the tokens of a run for each entry of the hidden matrices, by increasing width."""
    campaign = study.at(data["preset"])
    configs = {arm.fields["n_embd"]: campaign.configure(arm, 0, {}, data["preset"]) for arm in campaign.arms()}
    shares = [tokens_of(data) / hidden_entries(configs[width].model) for width in study.widths]
    return ", ".join(f"{share:.2g}" for share in shares)


def exponent_text(exponent: Estimate | None) -> str:
    """Return an exponent with its interval."""
    if exponent is None:
        return "unknown"
    return f"{signed(exponent.value, 2)} [{signed(exponent.low, 2)}, {signed(exponent.high, 2)}]"


def best_text(angle: Estimate | None) -> str:
    """Return a best angle per step, or a best rate, with its interval."""
    return "unknown" if angle is None else f"{angle.value:.3g} [{angle.low:.3g}, {angle.high:.3g}]"


def _cost_text(cost: Estimate | None) -> str:
    return "–" if cost is None else f"{signed(cost.value)} [{signed(max(0.0, cost.low))}, {signed(cost.high)}]"


def _cells_of(scan: Scan) -> list[str]:
    """Return the mean loss at each rate, with the angle per step; the lowest is bold."""
    means = scan.losses.mean(axis=0)
    lowest = np.nanmin(means, initial=math.inf)
    cells = [f"{loss:.3f} ({angle:.2g})" if math.isfinite(loss) else "–"
             for angle, loss in zip(scan.angles, means, strict=True)]  # fmt: skip
    return [f"**{cell}**" if loss == lowest else cell for cell, loss in zip(cells, means, strict=True)]


def _draw_best(study: Transfer, found: list[Scaling]) -> Figure:
    """Draw the best angle per step against width, a panel for each method, with what each rule predicts."""
    looks = looks_of_names(study.methods)
    figure, grid = subplots(WIDTH, 3.4, 1, len(found), squeeze=False, sharey=True)
    widths = np.array(study.widths, dtype=np.float64)
    for axes, one in zip(grid.flat, found, strict=True):
        found_at = {scan.width: scan.best_angle for scan in one.scans if scan.best_angle is not None}
        for width, best in found_at.items():
            axes.errorbar(width, best.value, [[best.value - best.low], [best.high - best.value]], marker="o",
                          markersize=5, capsize=3, color=looks[one.method].color)  # fmt: skip
        for rule, line in zip(study.rules_of(one.method), LINES, strict=False):
            if study.base in found_at:
                power = rule.exponent - (study.methods[one.method].exponent if rule.of == "rate" else 0.0)
                axes.plot(widths, found_at[study.base].value * (widths / study.base) ** power, color=INK,
                          linestyle=line, linewidth=1, label=rule.name, zorder=1)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="width", title=one.method)
        name_ticks(axes, "x", list(study.widths))
    low, high = grid[0, 0].get_ylim()
    for axes in grid.flat:
        name_ticks(axes, "y", log_ticks(low, high))
    grid[0, 0].set_ylabel("best angle per step [rad]")
    handles = [Line2D([], [], color=INK, linestyle=line, linewidth=1, label=rule.name)
               for rule, line in zip(study.rules, LINES, strict=False)]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    headline(figure, "Angle per step at which the loss is lowest, with its 95% interval over seeds; lines: the rules, "
             f"from the best angle at width {study.base}")  # fmt: skip
    return figure


def _draw_scans(study: Transfer, found: list[Scaling]) -> Figure:
    """Draw the loss against the angle per step, a panel for each method, a line for each width."""
    shades = [to_hex(shade) for shade in colormaps["viridis"](np.linspace(0, 0.8, len(study.widths)))]
    figure, grid = subplots(WIDTH, 3.6, 1, len(found), squeeze=False, sharey=True)
    for axes, one in zip(grid.flat, found, strict=True):
        _draw_scan(axes, one, shades)
    grid[0, 0].set_ylim(-0.05 * HIGHEST, min(HIGHEST, grid[0, 0].get_ylim()[1]))
    grid[0, 0].set_ylabel("loss above that at the width's best rate\n[nats per token]")
    handles = [Line2D([], [], color=shade, marker="o", markersize=4, label=f"{width} wide")
               for shade, width in zip(shades, study.widths, strict=True)]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    headline(figure, "Paired difference in final loss from the best rate tried, mean and 95% interval over seeds, "
             "against the mean angle by which the hidden vectors turn per step; dotted: best angle")  # fmt: skip
    return figure


def _draw_scan(axes: Axes, one: Scaling, shades: list[str]) -> None:
    for scan, shade in zip(one.scans, shades, strict=True):
        whole = np.isfinite(scan.losses).all(axis=0) & np.isfinite(scan.angles)
        if not whole.any():
            continue
        losses = scan.losses[:, whole]
        table = losses - losses[:, [losses.mean(axis=0).argmin()]]
        axes.errorbar(scan.angles[whole], table.mean(axis=0), half_width(table), color=shade, marker="o", markersize=4,
                      capsize=2.5, linewidth=1.3, elinewidth=1)  # fmt: skip
        if scan.best_angle is not None:
            axes.axvline(scan.best_angle.value, color=shade, linestyle=":", linewidth=1)
    axes.axhline(0, color=GRAY, linewidth=0.8, zorder=0)
    axes.set(xscale="log", title=one.method, xlabel="angle per step [rad]")
    name_ticks(axes, "x", log_ticks(*axes.get_xlim(), most=5))
