"""Every figure of a campaign's report, as files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.controls import Line
from ngpt.campaign.report.figures.curves import draw_curves
from ngpt.campaign.report.figures.differences import draw_differences, draw_pace
from ngpt.campaign.report.figures.effects import draw_effects
from ngpt.campaign.report.figures.rates import draw_loss_against_aux_lr, draw_loss_against_lr
from ngpt.campaign.report.figures.telemetry import draw_automata, draw_scan, draw_telemetry
from ngpt.campaign.report.forecast import draw_forecasts
from ngpt.campaign.report.style import Figure, save, style


def draw_figures(
    campaign: Campaign, analysis: Analysis, data: dict[str, Any], folder: Path, controls: Sequence[Line] = ()
) -> dict[str, str]:
    """Write every figure that has something to show into `folder`, as PNG and SVG; return the PNG's name by kind.

    controls: those of other campaigns, for a campaign without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, Callable[[], Figure | None]] = {
        "effects": lambda: draw_effects(analysis, controls), "scan": lambda: draw_scan(campaign, analysis),
        "loss_against_lr": lambda: draw_loss_against_lr(campaign, analysis, data),
        "loss_against_aux_lr": lambda: draw_loss_against_aux_lr(campaign, analysis, data),
        "differences": lambda: draw_differences(campaign, analysis, data),
        "curves": lambda: draw_curves(campaign, analysis, data),
        "pace": lambda: draw_pace(campaign, analysis, data),
        "forecast": lambda: draw_forecasts(analysis, data),
        "telemetry": lambda: draw_telemetry(campaign, analysis),
        "automata": lambda: draw_automata(data.get("automata", {})),
    }  # fmt: skip
    files = {}
    with style():
        for kind, draw in kinds.items():
            figure = draw()
            if figure is not None:
                files[kind] = f"{campaign.name}_{kind}.png"
                save(figure, folder / files[kind])
    return files
