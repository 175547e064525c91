"""Every answer as a row: the seeds, their mean with its interval, and the number of seeds with the mean's sign."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import fill
from typing import Any, Literal

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.analysis.statistics import Array, PairedDifference
from ngpt.campaign.analysis.verdict import Answer
from ngpt.campaign.definition import Rule, Word
from ngpt.campaign.report.controls import Line, effect_in
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


def draw_effects(analysis: Analysis, controls: Sequence[Line] = ()) -> Figure | None:
    """Draw the contrast of every answer, its seeds behind it, over the band of differences that do not matter.

    controls: those of other campaigns, which come last, without seeds.
    """
    groups = [list(answers) for answers in analysis.questions().values()]
    rows = [row for answers in groups for row in _rows(answers)]
    own = [row.drawn for row in rows if row.drawn is not None]
    if not any(one.effect is not None for one in own):
        return None
    rows += _rows_of_controls(controls, groups[0][0].contrast.rule)
    place = 0.0
    for row in rows:
        extra = 0.5 * row.text.count("\n")
        place += 0.45 if row.kind == "question" and place else 0.0
        row.place = place + extra / 2
        place += 1 + extra
    headers = [row for row in rows if row.drawn is None]
    places = {row.place: row.drawn for row in rows if row.drawn is not None}
    names = {row.place: row.text for row in rows if row.drawn is not None}
    shown = list(places.values())
    figure, axes = subplots(WIDTH, 1.2 + 0.235 * place)
    axes.set(ylim=(place - 0.4, -0.6), xlim=_limits(own, controls))
    units = {one.rule.unit for one in shown}
    _draw_bands(axes, rows)
    for at, one in places.items():
        _draw_row(axes, one, at, unit=len(units) > 1)
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


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One comparison as a row shows it."""

    effect: PairedDifference | None
    values: Array
    """on each seed that has a result"""
    word: Word | None
    """None for a control"""
    rule: Rule
    agreement: str


@dataclass
class Row:
    """One line of text at the left: a question, what its answers are against, or an answer."""

    kind: Literal["question", "against", "answer"]
    text: str
    drawn: Drawn | None = None
    place: float = 0.0


def _row(answer: Answer, other: str | None) -> Row:
    drawn = Drawn(
        effect=answer.verdict.effect, values=answer.values[np.isfinite(answer.values)],
        word=None if answer.contrast.control else answer.verdict.word, rule=answer.contrast.rule,
        agreement=agreement(answer),
    )  # fmt: skip
    return Row("answer", fill(short_name(answer, other), NAME_WIDTH), drawn)


def _rows(answers: Sequence[Answer]) -> list[Row]:
    """Return the rows of one question: a header, and where all compare methods, the other one is named only once."""
    question, other = answers[0].contrast.question, against(answers)
    if other is not None:
        header = fill(f"{question} – against {other}", HEADER_WIDTH)
        return [Row("question", header), *(_row(answer, other) for answer in answers)]
    rows = [Row("question", fill(question, HEADER_WIDTH))]
    pairs = [answer.contrast.pair for answer in answers]
    plain = all(pair is not None and answer.contrast.name == f"{pair[0]} against {pair[1]}"
                for pair, answer in zip(pairs, answers, strict=True))  # fmt: skip
    for answer, pair in zip(answers, pairs, strict=True):
        if plain and pair is not None and pair[1] != other:
            other = pair[1]
            rows.append(Row("against", f"against {other}"))
        rows.append(_row(answer, other))
    return rows


def _rows_of_controls(controls: Sequence[Line], rule: Rule) -> list[Row]:
    """Return the rows of controls from other campaigns, below a header; their values on each seed are not at hand."""
    header = "Controls of other campaigns: how much does the order of the data alone change the loss?"
    rows = [Row("question", header)] * bool(controls)
    for line in controls:
        said = f"{line['agreeing']} of {line['seeds']}"
        drawn = Drawn(effect=effect_in(line), values=np.empty(0), word=None, rule=rule, agreement=said)
        name = f"{line['contrast'].split(' against ')[0]} ({line['campaign']})"
        rows.append(Row("answer", fill(name, NAME_WIDTH), drawn))
    return rows


def _draw_bands(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the band of differences that do not matter behind the rows, in one piece where they follow each other."""
    for _, run in groupby(rows, lambda row: row.drawn and row.drawn.rule.smallest_effect):
        mine = list(run)
        if mine[0].drawn is not None:
            smallest = mine[0].drawn.rule.smallest_effect
            edges = [mine[0].place - 0.5, mine[-1].place + 0.5]
            axes.fill_betweenx(edges, -smallest, smallest, color=BAND, linewidth=0, zorder=0)


def _limits(shown: Sequence[Drawn], controls: Sequence[Line]) -> tuple[float, float]:
    """Return the range to show: all intervals except far ones, the seeds near them, and the intervals of `controls`."""
    known = [one.effect for one in shown if one.effect is not None]
    smallest = max(one.rule.smallest_effect for one in shown)
    low, high = range_without_far([e.t_low for e in known], [e.t_high for e in known], 1.15 * smallest)
    values = np.concatenate([one.values for one in shown])
    reach = 0.5 * (high - low)
    near = values[(values > low - reach) & (values < high + reach)]
    low, high = min([low, *near]), max([high, *near])
    inside = [e for e in known if low <= e.mean <= high]  # their intervals are drawn whole
    low, high = min([low, *(e.t_low for e in inside)]), max([high, *(e.t_high for e in inside)])
    low, high = min([low, *(line["low"] for line in controls)]), max([high, *(line["high"] for line in controls)])
    room = 0.04 * (high - low)
    return low - room, high + room


def _draw_row(axes: Axes, one: Drawn, place: float, *, unit: bool) -> None:
    """Draw one comparison at a height; what lies outside the axes becomes an arrow and a number at their edge."""
    e = one.effect
    low, high = axes.get_xlim()
    color = GRAY if one.word is None else WORD_COLORS[one.word]
    axes.plot(one.values, np.full(len(one.values), place), "o", color=mixed(color, "#FFFFFF", 0.45), markersize=5,
              markeredgewidth=0, zorder=2.8)  # fmt: skip
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    text = one.agreement if e is not None else "too few runs"
    axes.text(1.012, place, text + (f", {one.rule.unit}" if unit else ""), transform=beside, va="center_baseline")
    if e is None:
        return
    face = "#FFFFFF" if one.word is None else color
    marker = "o" if one.word is None else WORD_MARKERS[one.word]
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


def _legend(figure: Figure, shown: Sequence[Drawn]) -> None:
    """Add a legend below the axes: the words that occur, and what dots and band mean."""
    said = {one.word for one in shown}
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=color, marker=WORD_MARKERS[word], markersize=6.5, linewidth=1.5, label=word)
        for word, color in WORD_COLORS.items() if word in said
    ]  # fmt: skip
    if None in said:
        handles.append(Line2D([], [], color=GRAY, marker="o", markerfacecolor="#FFFFFF", markersize=6.5, linewidth=1.5,
                              label="control: noise alone"))  # fmt: skip
    handles.append(Line2D([], [], color=mixed(GRAY, "#FFFFFF", 0.45), marker="o", markersize=5, linewidth=0,
                          label="one seed"))  # fmt: skip
    smallest = sorted({one.rule.smallest_effect for one in shown})
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
