"""Draw what several figures share: labels at the ends of lines, ticks that a person reads, ranges, intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ngpt.campaign.report.figures.looks import Look
from ngpt.campaign.report.style import BLACK, Annotation, Axes, Figure, Formatter, MaxNLocator, ScaledTranslation
from ngpt.campaign.report.words import signed

FAR = 2.5
"""times as far from zero as the median of all: such an interval is written, not drawn"""

LABEL_SIZE = 8.5
LINE_HEIGHT = 1.3
"""of labels, times their size"""

HEADLINE_WIDTH = 138
"""characters in a line above a figure"""

BAND = "#EDEDED"
"""color of differences too small to matter"""


@dataclass(frozen=True, kw_only=True)
class End:
    """The end of a line, in data coordinates, and its label."""

    x: float
    y: float
    text: str
    look: Look
    strong: bool = False


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions at least `gap` apart, in the order of those wanted and as near to them as possible.

    They lie within `low` and `high` if there is room. Equal wanted positions keep their order.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # sum and number of what stands side by side, each less its places from the bottom
    for place, index in enumerate(order):
        blocks.append([wanted[index] - place * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + number]
    level = [total / number for total, number in blocks for _ in range(int(number))]
    room = max(low, high - (len(wanted) - 1) * gap)
    found = [0.0] * len(wanted)
    for place, index in enumerate(order):
        found[index] = min(max(level[place], low), room) + place * gap
    return found


def label_ends(figure: Figure, ends: Mapping[Axes, Sequence[End]]) -> None:
    """Write the label of each line beside its end, right of the axes; labels do not overlap.

    What leads to the label of a line that ends early is dotted, so that it does not look like more of the line.
    To be called when all else is drawn: the height of the axes decides how far labels move.
    """
    figure.draw_without_rendering()
    for axes, mine in ends.items():
        box = axes.bbox
        bottom, top = axes.get_ylim()
        inside = [min(max(end.y, min(bottom, top)), max(bottom, top)) for end in mine]
        pixels = [float(axes.transData.transform((end.x, y))[1]) for end, y in zip(mine, inside, strict=True)]
        gap = LABEL_SIZE * LINE_HEIGHT * figure.dpi / 72
        beside = axes.transAxes + ScaledTranslation(13 / 72, 0, figure.dpi_scale_trans)
        for end, y, place in zip(mine, inside, spread(pixels, gap, box.y0, box.y1 - gap / 3), strict=True):
            early = float(axes.transData.transform((end.x, y))[0]) < box.x0 + 0.9 * box.width
            arrow = {"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 0.0, "shrinkB": 1.0, "relpos": (0.0, 0.5),
                     "color": end.look.of_line(end.strong)["color"],
                     "linestyle": (0, (1, 2.5)) if early else "-"}  # fmt: skip
            axes.annotate(
                end.text, xy=(end.x, y), xytext=(1.0, (place - box.y0) / box.height), textcoords=beside,
                va="center", ha="left", fontsize=LABEL_SIZE, annotation_clip=False, arrowprops=arrow,
                gid="end", **end.look.of_text(end.strong),
            )  # fmt: skip


def end_labels(axes: Axes) -> list[Annotation]:
    """Return the labels that `label_ends` wrote."""
    return [child for child in axes.texts if isinstance(child, Annotation) and child.get_gid() == "end"]


def headline(figure: Figure, text: str) -> None:
    """Write what a figure shows above it, from its left edge."""
    figure.suptitle(fill(text, HEADLINE_WIDTH), x=0.008, ha="left")


def half_width(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the half-width of the 95% t interval of the mean along axis 0; 0 for a single value."""
    n = len(values)
    none = np.zeros(values.shape[1:])
    return stats.t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else none


def plain(value: float) -> str:
    """Return a number as a person writes it.

    >>> plain(0.015), plain(200.0), plain(1e-7), plain(-0.02), plain(3e-6)
    ('0.015', '200', '10⁻⁷', '−0.02', '3·10⁻⁶')
    """
    if value and abs(value) < 1e-4:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        digits = f"{abs(value) / 10.0**power:.3g}"
        ten = "10" + f"{power}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return ("−" if value < 0 else "") + (ten if digits == "1" else f"{digits}·{ten}")
    return f"{value:.6g}".replace("-", "−")


class Differences(Formatter):
    """Writes differences with their sign and equally many digits: `−0.05`, `0`, `+0.10`."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the text of one tick."""
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the texts of all ticks of an axis."""
        rounded = [round(float(value), 9) for value in values]
        digits = max((len(f"{value:.9f}".rstrip("0").partition(".")[2]) for value in rounded), default=0)
        return [signed(value, digits) if value else "0" for value in rounded]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return round numbers between two positive ones: the fewest, but at least three where there are, and no more.

    >>> log_ticks(0.004, 0.3), log_ticks(0.016, 0.072), log_ticks(1e-8, 0.1, most=4)
    ([0.01, 0.03, 0.1, 0.3], [0.02, 0.03, 0.04, 0.06], [1e-07, 1e-05, 0.001, 0.1])
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in ([1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 6, 8], [1 + 0.2 * step for step in range(45)],
                   [1 + 0.05 * step for step in range(180)]):  # fmt: skip
        found = sorted({float(f"{digit * 10.0**power:.6g}") for power in powers for digit in digits})
        inside = [value for value in found if low <= value <= high]
        if len(inside) > 2:
            break
    apart = math.ceil(len(inside) / most)
    return inside[(len(inside) - 1) % apart :: apart] if inside else []


def name_ticks(axes: Axes, which: str, ticks: Sequence[float]) -> None:
    """Put ticks at these numbers and nowhere else."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(list(ticks), [plain(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def name_rates(axes: Axes, rates: Sequence[float], inches: float) -> None:
    """Put ticks at the rates that were tried, except where their labels would overlap; the axes are `inches` wide."""
    shown = list(rates[:1])
    apart = (max(len(f"{rate:g}") for rate in rates) + 1.5) * 0.075 / inches
    for rate in rates[1:]:
        if math.log10(rate / shown[-1]) > apart * math.log10(rates[-1] / rates[0]):
            shown.append(rate)
    name_ticks(axes, "x", shown)


def range_without_far(lows: Sequence[float], highs: Sequence[float], least: float) -> tuple[float, float]:
    """Return the range, zero and +- `least` in it, of intervals without the few that would squash all others.

    An interval reaches as far as its end that is further from zero. Left out is what reaches more than `FAR` times as
    far as the median, or as `least` if that is more; unless that is more than a third of all.
    """
    reaches = np.maximum(np.abs(lows), np.abs(highs))
    far = reaches > FAR * max(float(np.median(reaches)), least)
    kept = [i for i in range(len(reaches)) if not far[i] or 3 * far.sum() > len(reaches)]
    return min(-least, *(lows[i] for i in kept)), max(least, *(highs[i] for i in kept))


def zero_and_band(axes: Axes, smallest: float | None) -> None:
    """Draw the zero line of differences over steps, and the band of those too small to matter, if that is known."""
    if smallest is not None:
        axes.axhspan(-smallest, smallest, color=BAND, linewidth=0, zorder=0)
    axes.axhline(0, color=BLACK, linewidth=0.9, zorder=2.5)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(Differences())
