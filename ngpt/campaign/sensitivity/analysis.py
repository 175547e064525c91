"""The numbers of a study of sensitivity, from the analysis of its campaign. Pure, no torch."""

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.analysis.statistics import LEVEL, Array, holm, sample_mean
from ngpt.campaign.analysis.verdict import Answer, Verdict, judge
from ngpt.campaign.definition import Rule
from ngpt.campaign.sensitivity.definition import Knob, Point, Sensitivity

State = Literal["off", "fine", "open"]
Advice = Literal["tune per method", "one value serves", "open"]

SHARED = "Which settings does a fair comparison of these methods have to tune for each?"
"""the question that every study of sensitivity answers beside its own"""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One knob of one method, moved alone."""

    method: str
    knob: Knob
    values: tuple[float, ...]
    """increasing"""
    default: float
    losses: Array
    """(seeds, values); NaN where a run has no result"""
    answers: dict[float, Answer]
    """by value, for all but the default: against the default"""
    state: State
    """`off`: some value is better than the default by the rule; `fine`: the interval of none reaches so far"""

    @property
    def best(self) -> float | None:
        """Value of the lowest mean; None if a run is missing."""
        means = self.losses.mean(axis=0)
        return self.values[int(means.argmin())] if np.isfinite(means).all() else None

    @property
    def at_edge(self) -> bool:
        """Return whether the best value is the first or the last, so that a better one may lie beyond."""
        return self.best in (self.values[0], self.values[-1])

    @property
    def foremost_value(self) -> float | None:
        """The value of the lowest difference to the default; None if a value has none."""
        effects = {value: answer.verdict.effect for value, answer in self.answers.items()}
        means = {value: effect.mean for value, effect in effects.items() if effect is not None}
        return min(means, key=means.__getitem__) if len(means) == len(effects) else None

    @property
    def foremost(self) -> Answer | None:
        """Its answer."""
        return None if self.foremost_value is None else self.answers[self.foremost_value]


@dataclass(frozen=True, kw_only=True)
class Compromise:
    """One value of a knob for all methods that have it with the same values."""

    knob: Knob
    value: float | None
    """the value of the smallest largest loss; None if a run is missing"""
    verdicts: dict[str, Verdict]
    """by method: of its loss at the compromise minus that at its own best value, both chosen on the other seeds"""

    @property
    def advice(self) -> Advice:
        """Return whether a fair comparison has to tune the knob for each method."""
        labels = {verdict.label for verdict in self.verdicts.values()}
        if "supported" in labels:
            return "tune per method"
        return "one value serves" if labels == {"refuted"} else "open"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A study's numbers."""

    scans: list[Scan]
    surfaces: dict[str, tuple[tuple[float, ...], tuple[float, ...], Array]]
    """values of the two knobs of the surface, and the mean differences to the defaults, by method"""
    compromises: list[Compromise]
    complete: bool


def compromise(tables: Array) -> int:
    """Return the index of the value at which the method that loses most loses least.

        argmin_v max_m (L[m, v] - min_w L[m, w]),  L[m, v] = mean_s tables[m, s, v]

    tables: (M methods, S seeds, V values), finite.
    """
    means = tables.mean(axis=1)
    return int((means - means.min(axis=1, keepdims=True)).max(axis=0).argmin())


def cost_of_sharing(tables: Array) -> Array:
    """Return what each method loses at the compromise against its own best value, (M, S), seed by seed.

        cost[m, s] = tables[m, s, v] - tables[m, s, w],  v the compromise and w the best value without seed s

    tables: (M methods, S seeds, V values), S at least 2. Values chosen on the seeds that judge them would look better
    than they are. NaN everywhere if a run is missing.
    """
    methods, seeds, _ = tables.shape
    costs = np.full((methods, seeds), np.nan)
    if np.isfinite(tables).all():
        for s in range(seeds):
            others = np.delete(tables, s, axis=1)
            own = others.mean(axis=1).argmin(axis=1)
            costs[:, s] = tables[:, s, compromise(others)] - tables[np.arange(methods), s, own]
    return costs


def find(study: Sensitivity, analysis: Analysis, preset: str) -> Findings:
    """Compute a study's numbers from its campaign's analysis at a preset."""
    losses = {summary.method.name: summary.comparison for summary in analysis.summaries}
    answers = {next(name for name, weight in a.contrast.weights.items() if weight > 0): a for a in analysis.answers}
    scans, surfaces = [], {}
    for method in study.methods:
        for knob in study.all_knobs(method):
            values, default = study.values(knob, method, preset), study.default(knob, method, preset)
            arms = {v: Point(method=method, values={knob.name: v} if v != default else {}).name for v in values}
            judged = {value: answers[name] for value, name in arms.items() if value != default}
            scans.append(Scan(
                method=method, knob=knob, values=values, default=default, answers=judged,
                losses=np.stack([losses[name] for name in arms.values()], axis=1), state=_state(study.rule, judged),
            ))  # fmt: skip
        surfaces[method] = _surface(study, method, preset, losses)
    compromises = _compromises(study.rule, scans)
    return Findings(scans=scans, surfaces=surfaces, compromises=compromises, complete=analysis.complete)


def _state(rule: Rule, judged: dict[float, Answer]) -> State:
    if any(answer.verdict.label == "supported" for answer in judged.values()):
        return "off"
    gains = [(answer.verdict.effect, answer.result.n_missing) for answer in judged.values()]
    enough = all(effect is not None and effect.n >= rule.seeds and not missing for effect, missing in gains)
    return "fine" if enough and all(e is not None and e.t_low > -rule.smallest_effect for e, _ in gains) else "open"


def _surface(
    study: Sensitivity, method: str, preset: str, losses: dict[str, Array]
) -> tuple[tuple[float, ...], tuple[float, ...], Array]:
    first, second = study.surface
    rows, columns = (study.values(knob, method, preset) for knob in study.surface)
    defaults = [study.default(knob, method, preset) for knob in study.surface]
    table = np.empty((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            pairs = zip((first.name, second.name), (row, column), defaults, strict=True)
            point = Point(method=method, values={name: value for name, value, default in pairs if value != default})
            table[i, j] = (losses[point.name] - losses[method]).mean()
    return rows, columns, table


def _compromises(rule: Rule, scans: list[Scan]) -> list[Compromise]:
    """Judge every knob that methods have with the same values, under one error rate."""
    groups: dict[tuple[str, tuple[float, ...]], list[Scan]] = defaultdict(list)
    for scan in scans:
        groups[scan.knob.name, scan.values].append(scan)
    shared = [group for group in groups.values() if len(group) > 1]
    tables = [np.stack([scan.losses for scan in group]) for group in shared]
    costs = [cost_of_sharing(table) for table in tables]
    found = [sample_mean(cost) for rows in costs for cost in rows]
    adjusted = iter(holm([1.0 if difference is None else difference.p for difference in found]))
    as_cost = dataclasses.replace(rule, predicted="higher")
    return [
        Compromise(
            knob=group[0].knob,
            value=group[0].values[compromise(table)] if np.isfinite(table).all() else None,
            verdicts={
                scan.method: judge(
                    as_cost, sample_mean(cost), n_missing=int(np.isnan(cost).sum()),
                    distinguishable=next(adjusted) < LEVEL,
                )
                for scan, cost in zip(group, rows, strict=True)
            },
        )
        for group, table, rows in zip(shared, tables, costs, strict=True)
    ]  # fmt: skip
