"""Every answer as a row: the seeds, their mean and its interval, and on how many seeds the sign is the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import fill
from typing import Any, Literal

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.analysis.verdict import Answer
from ngpt.campaign.report.figures.marks import BAND, Differences, headline, range_without_far
from ngpt.campaign.report.style import (
    BLACK,
    GRAY,
    INK,
    WIDTH,
    WORD_COLORS,
    WORD_MARKERS,
    Axes,
    Figure,
    Line2D,
    MaxNLocator,
    Patch,
    blended_transform_factory,
    mixed,
    subplots,
)
from ngpt.campaign.report.words import against, agreement, interval_text, short_name

NAME_WIDTH = 48
"""characters of a row's name before it goes on in a second line"""

HEADER_WIDTH = 128


def draw_effects(analysis: Analysis) -> Figure | None:
    """Draw the contrast of every answer, its seeds behind it, over the band of differences that do not matter."""
    groups = [list(answers) for answers in analysis.questions().values()]
    shown = [answer for answers in groups for answer in answers]
    if not any(answer.verdict.effect is not None for answer in shown):
        return None
    rows: list[Row] = [row for answers in groups for row in _rows(answers)]
    place = 0.0
    for row in rows:
        extra = 0.5 * row.text.count("\n")
        place += 0.45 if row.kind == "question" and place else 0.0
        row.place = place + extra / 2
        place += 1 + extra
    headers = [row for row in rows if row.answer is None]
    places = {row.place: row.answer for row in rows if row.answer is not None}
    names = {row.place: row.text for row in rows if row.answer is not None}
    figure, axes = subplots(WIDTH, 1.2 + 0.235 * place)
    axes.set(ylim=(place - 0.4, -0.6), xlim=_limits(shown))
    units = {answer.contrast.rule.unit for answer in shown}
    _draw_bands(axes, rows)
    for at, answer in places.items():
        _draw_row(axes, answer, at, unit=len(units) > 1)
    axes.axvline(0, color=BLACK, linewidth=0.9, zorder=2.5)
    axes.set_yticks(list(names), list(names.values()))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(Differences())
    unit = f" [{units.pop()}]" if len(units) == 1 else ""
    axes.set_xlabel(f"← better      difference{unit}      worse →")
    headline(figure, "Paired difference of each comparison: mean and 95% interval over seeds")
    seeds = "seeds with\nthat sign"
    axes.text(1.012, -0.35, seeds, transform=blended_transform_factory(axes.transAxes, axes.transData), fontsize=8,
              color=INK, va="center", linespacing=1.1)  # fmt: skip
    _legend(figure, shown)
    _write_headers(figure, axes, headers)
    return figure


@dataclass
class Row:
    """One line of text at the left: a question, what its answers are against, or an answer."""

    kind: Literal["question", "against", "answer"]
    text: str
    answer: Answer | None = None
    place: float = 0.0


def _rows(answers: Sequence[Answer]) -> list[Row]:
    """Return the rows of one question: a header, and where all compare methods, the other one is named only once."""
    question, other = answers[0].contrast.question, against(answers)
    if other is not None:
        header = fill(f"{question} – against {other}", HEADER_WIDTH)
        return [Row("question", header), *(Row("answer", fill(short_name(a, other), NAME_WIDTH), a) for a in answers)]
    rows = [Row("question", fill(question, HEADER_WIDTH))]
    pairs = [answer.contrast.pair for answer in answers]
    plain = all(pair is not None and answer.contrast.name == f"{pair[0]} against {pair[1]}"
                for pair, answer in zip(pairs, answers, strict=True))  # fmt: skip
    for answer, pair in zip(answers, pairs, strict=True):
        if plain and pair is not None and pair[1] != other:
            other = pair[1]
            rows.append(Row("against", f"against {other}"))
        rows.append(Row("answer", fill(short_name(answer, other), NAME_WIDTH), answer))
    return rows


def _draw_bands(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the band of differences that do not matter behind the rows, in one piece where they follow each other."""
    for _, run in groupby(rows, lambda row: row.answer and row.answer.contrast.rule.smallest_effect):
        mine = list(run)
        if mine[0].answer is not None:
            smallest = mine[0].answer.contrast.rule.smallest_effect
            edges = [mine[0].place - 0.5, mine[-1].place + 0.5]
            axes.fill_betweenx(edges, -smallest, smallest, color=BAND, linewidth=0, zorder=0)


def _limits(shown: Sequence[Answer]) -> tuple[float, float]:
    """Return the range of differences: all intervals but far ones, and the seeds near them."""
    effects = [answer.verdict.effect for answer in shown]
    known = [e for e in effects if e is not None]
    smallest = max(answer.contrast.rule.smallest_effect for answer in shown)
    low, high = range_without_far([e.t_low for e in known], [e.t_high for e in known], 1.15 * smallest)
    values = np.concatenate([answer.values[np.isfinite(answer.values)] for answer in shown])
    reach = 0.5 * (high - low)
    near = values[(values > low - reach) & (values < high + reach)]
    low, high = min([low, *near]), max([high, *near])
    inside = [e for e in known if low <= e.mean <= high]  # their intervals are drawn whole
    low, high = min([low, *(e.t_low for e in inside)]), max([high, *(e.t_high for e in inside)])
    room = 0.04 * (high - low)
    return low - room, high + room


def _draw_row(axes: Axes, answer: Answer, place: float, *, unit: bool) -> None:
    """Draw one answer at a height; what lies outside the axes becomes an arrow and a number at their edge."""
    rule, e, control = answer.contrast.rule, answer.verdict.effect, answer.contrast.control
    low, high = axes.get_xlim()
    values = answer.values[np.isfinite(answer.values)]
    color = GRAY if control else WORD_COLORS[answer.verdict.word]
    axes.plot(values, np.full(len(values), place), "o", color=mixed(color, "#FFFFFF", 0.45), markersize=5,
              markeredgewidth=0, zorder=2.8)  # fmt: skip
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    text = agreement(answer) if e is not None else "too few runs"
    axes.text(1.012, place, text + (f", {rule.unit}" if unit else ""), transform=beside, va="center_baseline")
    if e is None:
        return
    face = "#FFFFFF" if control else color
    marker = "o" if control else WORD_MARKERS[answer.verdict.word]
    if low <= e.mean <= high:
        line = axes.plot([e.t_low, e.t_high], [place, place], color=color, linewidth=1.5, zorder=3)[0]
        line.set_solid_capstyle("butt")
        axes.plot(e.mean, place, marker, markersize=6.5, color=color, markerfacecolor=face, markeredgewidth=1.3,
                  zorder=4)  # fmt: skip
        return
    right = e.mean > high
    axes.annotate(
        "", xy=(float(right), place), xytext=(-22 if right else 22, 0), xycoords=beside, textcoords="offset points",
        arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    axes.annotate(
        interval_text(e), xy=(float(right), place), xytext=(-26 if right else 26, 0), xycoords=beside,
        textcoords="offset points", ha="right" if right else "left", va="center", color=mixed(color, BLACK, 0.25),
    )  # fmt: skip


def _legend(figure: Figure, shown: Sequence[Answer]) -> None:
    """Add a legend below the axes: the words that occur, and what dots and band mean."""
    said = {answer.verdict.word for answer in shown if not answer.contrast.control}
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=color, marker=WORD_MARKERS[word], markersize=6.5, linewidth=1.5, label=word)
        for word, color in WORD_COLORS.items() if word in said
    ]  # fmt: skip
    if any(answer.contrast.control for answer in shown):
        handles.append(Line2D([], [], color=GRAY, marker="o", markerfacecolor="#FFFFFF", markersize=6.5, linewidth=1.5,
                              label="control: noise alone"))  # fmt: skip
    handles.append(Line2D([], [], color=mixed(GRAY, "#FFFFFF", 0.45), marker="o", markersize=5, linewidth=0,
                          label="one seed"))  # fmt: skip
    smallest = sorted({answer.contrast.rule.smallest_effect for answer in shown})
    size = f": ±{smallest[0]:g}" if len(smallest) == 1 else ""
    handles.append(Patch(color=BAND, label=f"too small to matter{size}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) if len(handles) < 7 else 4,
                  columnspacing=1.4)  # fmt: skip


def _write_headers(figure: Figure, axes: Axes, headers: Sequence[Row]) -> None:
    """Write questions, and what their answers are against, above the rows from the left edge of the rows' names."""
    figure.draw_without_rendering()
    edges = [label.get_window_extent().x0 for label in axes.get_yticklabels()]
    left = max(0.008, min(edges) / figure.bbox.width)
    where = blended_transform_factory(figure.transFigure, axes.transData)
    for row in headers:
        minor: dict[str, Any] = {"color": INK, "fontstyle": "italic"}
        look = {"fontweight": "bold"} if row.kind == "question" else minor
        box = {"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 1.0}
        axes.text(left, row.place, row.text, transform=where, va="center_baseline", fontsize=8.5, gid="header",
                  linespacing=1.15, zorder=5, bbox=box, **look).set_in_layout(False)  # fmt: skip
