"""Which color and line a method has, and which methods stand out."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.style import BLACK, COLORS, GRAY, INK, LINES, METHOD_COLORS, colormaps, mixed, to_hex

FEW = 3
"""lines that need no emphasis of some over others"""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Color and line style of a method, the same in every figure."""

    color: str
    line: Any = "-"

    def of_line(self, strong: bool) -> dict[str, Any]:
        """Return matplotlib's keywords for a line that stands out, or for one that does not."""
        color = self.color if strong else mixed(self.color, "#FFFFFF", 0.4)
        return {"color": color, "linestyle": self.line, "linewidth": 1.8 if strong else 1.1, "zorder": 3 + strong}

    def of_text(self, strong: bool) -> dict[str, Any]:
        """Return matplotlib's keywords for the name of such a line."""
        color = mixed(self.color, BLACK, 0.25) if strong else INK
        return {"color": color, "fontweight": "bold" if strong else "normal"}


MANY = 14
"""lines in a panel that can have names; if there are more, only the best have"""

CONTROL = Look(color=GRAY, line=LINES[2])
"""of a method that only repeats another one"""

IN_BACKGROUND: dict[str, Any] = {"color": "#D3D3D3", "linewidth": 0.8, "zorder": 1}
"""matplotlib's keywords for lines that are there for comparison and have no name"""


def looks_of(campaign: Campaign) -> dict[str, Look]:
    """Return the look of each method by name.

    A method that `METHOD_COLORS` knows has its color in every report. Up to four methods whose names begin alike, up
    to a comma, share a color and differ in their lines; of more, those that end alike share a color, in the order of
    the campaign. Of a scan, the color shows the position. A control is gray.
    """
    lent = controls(campaign)
    names = [*campaign.baselines, *(m.name for m in campaign.methods if m.name not in campaign.baselines)]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name not in lent:
            groups[name if name in METHOD_COLORS else name.split(", ")[0]].append(name)
    keys = {}
    for stem, group in groups.items():
        for number, name in enumerate(group):
            alike = len(group) <= len(LINES)
            keys[name] = (stem, number) if alike or number == 0 else (name.removeprefix(f"{stem}, "), 0)
    taken = {METHOD_COLORS[key] for key, _ in keys.values() if key in METHOD_COLORS}
    reserved = set(COLORS[:3])
    free = [color for color in COLORS if color not in taken | reserved]
    first, free = (0, free) if free else (1, [*COLORS[3:]])  # with another line where all colors are taken
    colors = dict(METHOD_COLORS)
    lines = dict.fromkeys(keys, 0)
    rounds: dict[str, int] = {}
    for key, _ in keys.values():
        if key not in colors:
            around, place = divmod(len(rounds), len(free))
            rounds[key] = first + around
            colors[key] = free[place]
    for name, (key, number) in keys.items():
        lines[name] = number + rounds.get(key, 0)
    looks = {name: Look(color=colors[key], line=LINES[lines[name] % len(LINES)]) for name, (key, _) in keys.items()}
    positions = sorted({method.position for method in campaign.methods if method.position is not None})
    shades = colormaps["viridis"](np.linspace(0, 0.8, len(positions)))
    for method in campaign.methods:
        if method.position is not None and method.name not in campaign.baselines:
            looks[method.name] = Look(color=to_hex(shades[positions.index(method.position)]))
    return {method.name: looks.get(method.name, CONTROL) for method in campaign.methods}


def looks_of_names(names: Iterable[str]) -> dict[str, Look]:
    """Return a look for each of a few methods: its color in every report, or the next that is free."""
    known = [name for name in names if name in METHOD_COLORS]
    free = cycle([color for color in COLORS if color not in {METHOD_COLORS[name] for name in known}])
    return {name: Look(color=METHOD_COLORS[name] if name in known else next(free)) for name in names}


def controls(campaign: Campaign) -> set[str]:
    """Return the names of methods that only repeat another one, to show the size of noise."""
    return {name for c in campaign.contrasts() if c.control for name, weight in c.weights.items() if weight > 0}


def standing_out(campaign: Campaign, analysis: Analysis, names: Collection[str], few: int = FEW) -> set[str]:
    """Return the names, among these, of the baselines and of the best method; all if there are at most `few`."""
    lent = controls(campaign)
    candidates = [name for name in names if name not in lent]
    if len(candidates) <= few:
        return set(candidates)
    means = {s.method.name: s.comparison.mean() for s in analysis.summaries if s.comparison.size}
    finite = {name: means[name] for name in candidates if np.isfinite(means.get(name, np.nan))}
    best = {min(finite, key=finite.__getitem__)} if finite else set()
    return best | {name for name in candidates if name in campaign.baselines}


def named_of(campaign: Campaign, analysis: Analysis, names: Collection[str]) -> list[str]:
    """Return the names, among these, whose lines are drawn in color and labeled: the baselines and the best."""
    if len(names) <= MANY:
        return list(names)
    means = {s.method.name: float(s.comparison.mean()) if s.comparison.size else np.inf for s in analysis.summaries}
    ranked = sorted(names, key=lambda name: (name not in campaign.baselines, np.nan_to_num(means[name], nan=np.inf)))
    best = {name for name in ranked[: MANY - 4] if name not in controls(campaign)}
    return [name for name in names if name in best]


def families_of(campaign: Campaign, names: Collection[str]) -> dict[str, list[str]]:
    """Return these names by family, both in the order of the campaign."""
    found: dict[str, list[str]] = {}
    for method in campaign.methods:
        if method.name in names:
            found.setdefault(method.family, []).append(method.name)
    return found


def without(name: str, family: str) -> str:
    """Return a method's name without that of its family, which the panel shows.

    >>> without("Adam, sqrt", "Adam"), without("none, equal angle", "equal angle"), without("Muon", "Muon")
    ('sqrt', 'none', 'Muon')
    """
    return name.removeprefix(f"{family}, ").removesuffix(f", {family}")


def metric_text(campaign: Campaign) -> str:
    """Return what the campaign measures, with its unit."""
    names: Mapping[str, str] = {"final_val_loss": "final validation loss", "final_val_bpb": "final validation loss"}
    return f"{names.get(campaign.rule.metric, campaign.rule.metric)}\n[{campaign.rule.unit}]"
