"""The numbers of a study of sensitivity, from the analysis of its campaign. Pure, no torch."""

import dataclasses
import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.analysis.statistics import LEVEL, Array, holm, sample_mean
from ngpt.campaign.analysis.verdict import Answer, Verdict, judge
from ngpt.campaign.definition import Rule
from ngpt.campaign.sensitivity.definition import Knob, Point, Sensitivity

State = Literal["off", "fine", "open"]
"""`off`: some value is better than the default by the rule; `fine`: the intervals rule that out for all values; `open`:
neither is shown"""
Advice = Literal["tune per method", "one value serves", "open"]

TUNING_QUESTION = "Which settings does a fair comparison of these methods have to tune for each?"
"""the question that every study of sensitivity answers beside its own"""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A place to which one or two knobs were moved, against the method's defaults."""

    values: tuple[float, ...]
    answer: Answer
    diverged: int
    """number of seeds on which the run diverged; such a place is worse than the defaults, whatever the others say"""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One knob of one method, moved alone, or the surface's two, moved together."""

    method: str
    knobs: tuple[Knob, ...]
    default: tuple[float, ...]
    grids: tuple[tuple[float, ...], ...]
    """values of each knob, increasing"""
    moved: list[Moved]
    """all places but the defaults; of a surface those where both knobs are moved"""
    losses: Array
    """(seeds, values) of a knob moved alone, infinite at a value where a run diverged; NaN where a run is missing"""
    differences: Array
    """mean difference from the defaults over the grids; NaN where a run has no result"""
    state: State

    @property
    def name(self) -> str:
        """Name of the method and of what was moved: `Adam: alpha`."""
        return f"{self.method}: {self.knob_names}"

    @property
    def knob_names(self) -> str:
        """Names of what was moved: `alpha`, or `hidden rate and auxiliary rate`."""
        return " and ".join(knob.name for knob in self.knobs)

    @property
    def answers(self) -> list[Answer]:
        """The answers of all places but the defaults."""
        return [one.answer for one in self.moved]

    @property
    def best(self) -> Moved | None:
        """The place of the lowest difference among those that are better by the rule; else among all with one."""
        found = [one for one in self.moved if one.answer.verdict.word == "better"] or self.moved
        means = {id(one): one.answer.verdict.effect.mean for one in found if one.answer.verdict.effect is not None}
        return min((one for one in found if id(one) in means), key=lambda one: means[id(one)], default=None)

    def at_edge(self, place: Moved) -> bool:
        """Return whether a place is at an end of a grid, so that a better one may lie beyond."""
        return any(value in (grid[0], grid[-1]) for value, grid in zip(place.values, self.grids, strict=True))


@dataclass(frozen=True, kw_only=True)
class Compromise:
    """One value of a knob for all methods that have it with the same values."""

    knob: Knob
    value: float | None
    """the value whose largest cost over the methods is smallest; None if a run is missing, or if none serves all"""
    without_a_seed: tuple[float, ...]
    """those chosen without each seed in turn, whose costs `verdicts` judges"""
    of_all: bool
    """whether all methods share the knob"""
    verdicts: dict[str, Verdict]
    """by method: of its loss at the compromise minus that at its own best value, its cost, both chosen on the other
    seeds"""

    none_serves: bool
    """whether runs of some method diverge at every value at which those of all others do not"""

    rule: Rule
    """judges these losses; predicts a higher one"""

    @property
    def name(self) -> str:
        """Name of the knob, and of the methods that share it unless these are all."""
        return self.knob.name if self.of_all else f"{self.knob.name} ({', '.join(self.verdicts)})"

    @property
    def advice(self) -> Advice:
        """Return what a fair comparison has to do with the knob."""
        if self.none_serves or any(verdict.word == "worse" for verdict in self.verdicts.values()):
            return "tune per method"
        costs = [verdict.effect for verdict in self.verdicts.values()]
        small = all(cost is not None and cost.n >= self.rule.seeds and cost.t_high < self.rule.smallest_effect
                    for cost in costs)  # fmt: skip
        return "one value serves" if small else "open"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A study's numbers."""

    scans: list[Scan]
    """every knob of every method moved alone"""
    surfaces: list[Scan]
    """the surface's two knobs of every method moved together"""
    compromises: list[Compromise]
    complete: bool

    @property
    def judged(self) -> list[Scan]:
        """All scans, method by method."""
        names = dict.fromkeys(scan.method for scan in self.scans)
        return [scan for name in names for scan in (*self.scans, *self.surfaces) if scan.method == name]


def compromise(tables: Array) -> int:
    """Return the index of the value at which the largest cost over the methods is smallest.

        argmin_v max_m (L[m, v] - min_w L[m, w]),  L[m, v] = mean_s tables[m, s, v]

    tables: (M methods, S seeds, V values), infinite at values at which runs diverge.
    """
    means = tables.mean(axis=1)
    return int((means - means.min(axis=1, keepdims=True)).max(axis=0).argmin())


def cost_of_sharing(tables: Array) -> Array:
    """Return the cost of the compromise for each method, (M, S): what it loses there against its own best value.

        cost[m, s] = tables[m, s, v] - tables[m, s, w],  v the compromise and w the best value without seed s

    tables: (M methods, S seeds, V values), S at least 2. Values chosen on the seeds that judge them would look better
    than they are. NaN everywhere if a run is missing.
    """
    methods, seeds, _ = tables.shape
    costs = np.full((methods, seeds), np.nan)
    if not np.isnan(tables).any() and bool(np.isfinite(tables.max(axis=1).min(axis=1)).all()):
        for s in range(seeds):
            others = np.delete(tables, s, axis=1)
            own = others.mean(axis=1).argmin(axis=1)
            costs[:, s] = tables[:, s, compromise(others)] - tables[np.arange(methods), s, own]
    return costs


def chosen_without_each_seed(tables: Array) -> list[int]:
    """Return the index of the compromise without each seed in turn; tables as in `compromise`."""
    return [compromise(np.delete(tables, s, axis=1)) for s in range(tables.shape[1])]


def find(study: Sensitivity, analysis: Analysis, data: dict[str, Any]) -> Findings:
    """Compute a study's numbers from its collected data and its campaign's analysis of them."""
    preset = data["preset"]
    losses = {summary.method.name: summary.comparison for summary in analysis.summaries}
    answers = {next(name for name, weight in a.contrast.weights.items() if weight > 0): a for a in analysis.answers}
    diverged = Counter(row["method"] for row in data["runs"] if row["status"] == "diverged")

    def scan(method: str, *knobs: Knob) -> Scan:
        grids = tuple(study.values(knob, method, preset) for knob in knobs)
        default = tuple(study.default(knob, method, preset) for knob in knobs)
        arms = {}
        for place in itertools.product(*grids):
            pairs = zip(knobs, place, default, strict=True)
            values = {knob.name: value for knob, value, usual in pairs if value != usual}
            arms[place] = Point(method=method, values=values).name
        columns = [np.full_like(losses[name], np.inf) if diverged[name] else losses[name] for name in arms.values()]
        moved = [
            Moved(values=place, answer=answers[name], diverged=diverged[name]) for place, name in arms.items()
            if all(value != usual for value, usual in zip(place, default, strict=True))
        ]  # fmt: skip
        differences = np.array([(losses[name] - losses[method]).mean() for name in arms.values()])
        return Scan(
            method=method, knobs=knobs, default=default, grids=grids, moved=moved, losses=np.stack(columns, axis=1),
            differences=differences.reshape([len(grid) for grid in grids]), state=_state(study.rule, moved),
        )  # fmt: skip

    scans = [scan(method, knob) for method in study.methods for knob in study.all_knobs(method)]
    surfaces = [scan(method, *study.surface) for method in study.methods]
    compromises = _compromises(study.rule, scans, len(study.methods))
    return Findings(scans=scans, surfaces=surfaces, compromises=compromises, complete=analysis.complete)


def _state(rule: Rule, moved: list[Moved]) -> State:
    if any(one.answer.verdict.word == "better" for one in moved):
        return "off"
    answers = [one.answer for one in moved if not one.diverged]
    sure = all(
        e is not None and e.n >= rule.seeds and not answer.result.n_missing and e.t_low > -rule.smallest_effect
        for answer in answers for e in [answer.verdict.effect]
    )  # fmt: skip
    return "fine" if sure else "open"


def _compromises(rule: Rule, scans: list[Scan], methods: int) -> list[Compromise]:
    """Judge every knob that methods have with the same values, under one error rate."""
    groups: dict[tuple[str, tuple[tuple[float, ...], ...]], list[Scan]] = defaultdict(list)
    for scan in scans:
        groups[scan.knob_names, scan.grids].append(scan)
    shared = [group for group in groups.values() if len(group) > 1]
    tables = [np.stack([scan.losses for scan in group]) for group in shared]
    costs = [cost_of_sharing(table) for table in tables]
    differences = [sample_mean(cost) for rows in costs for cost in rows]
    adjusted = iter(holm([1.0 if difference is None else difference.p for difference in differences]))
    as_cost = dataclasses.replace(rule, predicted="higher")
    return [
        Compromise(
            knob=group[0].knobs[0], rule=as_cost, of_all=len(group) == methods,
            value=None if np.isnan(rows).any() or none else group[0].grids[0][compromise(table)], none_serves=none,
            without_a_seed=() if np.isnan(rows).any() or none else tuple(
                group[0].grids[0][index] for index in chosen_without_each_seed(table)
            ),
            verdicts={
                scan.method: judge(
                    as_cost, sample_mean(cost), n_missing=int(np.isnan(cost).sum()),
                    distinguishable=next(adjusted) < LEVEL,
                )
                for scan, cost in zip(group, rows, strict=True)
            },
        )
        for group, table, rows in zip(shared, tables, costs, strict=True)
        for none in [bool(np.isinf(table).any(axis=(0, 1)).all())]
    ]  # fmt: skip
