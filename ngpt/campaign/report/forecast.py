"""A forecast beside its outcome, as rows of a table and as a figure. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.analysis.statistics import PairedDifference
from ngpt.campaign.report.figures.marks import headline, zero_and_band
from ngpt.campaign.report.style import BLUE, GRAY, VERMILION, WIDTH, Axes, Figure, subplots
from ngpt.campaign.report.words import interval_text, millions, signed

COLUMNS = 3
"""panels in a row"""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A forecast for a contrast, beside the outcome."""

    contrast: str
    known: list[dict[str, float]]
    """mean, low and high at each smaller size"""
    mean: float
    low: float
    high: float
    outcome: PairedDifference | None
    smallest_effect: float
    unit: str

    @property
    def came_true(self) -> bool | None:
        """Return whether the outcome lies in the band; None without an outcome."""
        return None if self.outcome is None else self.low <= self.outcome.mean <= self.high

    @property
    def cells(self) -> list[str]:
        """Return the cells of a table: known effects, forecast, outcome, error, whether it came true."""
        known = [signed(one["mean"]) for one in self.known]  # their intervals are in the reports of those sizes
        error = "–" if self.outcome is None else signed(self.outcome.mean - self.mean)
        said = {None: "–", True: "yes", False: "**no**"}[self.came_true]
        return [*known, _with_interval(self.mean, self.low, self.high), interval_text(self.outcome), error, said]


def _with_interval(mean: float, low: float, high: float) -> str:
    return f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def forecasts_of(data: dict[str, Any], analysis: Analysis) -> list[Forecast]:
    """Return every forecast of the collected data beside its outcome; none if nothing was forecast."""
    contrasts = data.get("forecast", {}).get("contrasts", {})
    return [
        Forecast(contrast=answer.contrast.name, known=found["known"], **found["forecast"],
                 outcome=answer.verdict.effect, smallest_effect=answer.contrast.rule.smallest_effect,
                 unit=answer.contrast.rule.unit)
        for answer in analysis.answers if (found := contrasts.get(answer.contrast.name)) is not None
    ]  # fmt: skip


def draw_forecasts(analysis: Analysis, data: dict[str, Any]) -> Figure | None:
    """Draw each effect against size: those known before, the forecast with its band, and the outcome."""
    found = forecasts_of(data, analysis)
    if not found:
        return None
    sizes = [source["size"] for source in data["forecast"]["from"]]
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure, grid = subplots(WIDTH, 0.9 + 2.4 * rows, rows, columns, squeeze=False, sharey=True)
    for axes, one in zip(grid.flat, found, strict=False):
        _draw_forecast(axes, one, sizes, data["forecast"]["size"])
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    figure.supylabel(f"effect [{found[0].unit}]", fontsize=9)
    headline(figure, "Effect against the entries of the hidden matrices, mean and 95% interval: known before (blue), "
             "forecast with its band (gray), and the outcome (vermilion)")  # fmt: skip
    return figure


def _draw_forecast(axes: Axes, one: Forecast, sizes: Sequence[float], size: float) -> None:
    zero_and_band(axes, one.smallest_effect)
    means = np.array([known["mean"] for known in one.known])
    bars = np.abs([[known[end] - known["mean"] for known in one.known] for end in ("low", "high")])
    axes.plot([sizes[-1], size], [means[-1], one.mean], color=GRAY, linestyle=":", linewidth=1.2)
    axes.errorbar(sizes, means, bars, color=BLUE, marker="o", markersize=4.5, capsize=3, linewidth=1.3, label="known")
    axes.errorbar([size], [one.mean], [[one.mean - one.low], [one.high - one.mean]], color=GRAY, marker="s",
                  markersize=5, capsize=5, elinewidth=3, alpha=0.8, label="forecast")  # fmt: skip
    if one.outcome is not None:
        mean, low, high = one.outcome.mean, one.outcome.t_low, one.outcome.t_high
        axes.errorbar([size * 1.12], [mean], [[mean - low], [high - mean]], color=VERMILION, marker="D", markersize=4.5,
                      capsize=3, label="outcome")  # fmt: skip
    axes.set(xscale="log", title=fill(one.contrast, 36), xlim=(min(sizes) / 1.4, size * 1.6))
    axes.set_xticks([*sizes, size], [millions(round(place)) for place in (*sizes, size)])
    axes.set_xticks([], minor=True)
