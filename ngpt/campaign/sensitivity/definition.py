"""The statements of a study of sensitivity: methods, settings that are moved, and the rule. No torch."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ngpt.campaign.definition import Campaign, Method, Rule
from ngpt.campaign.definition.experiment import Statements
from ngpt.campaign.definition.rule import check
from ngpt.config import RunConfig, flatten
from ngpt.presets import resolve


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A setting that leaves its default, and the values it takes."""

    name: str
    """as shown in tables and figures; each knob of a study has another one"""
    field: str
    """configuration field, a number"""
    moved: Callable[[float], tuple[float, ...]]
    """default -> the other values"""
    methods: tuple[str, ...] = ()
    """names of the methods that have the setting; empty: all"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One method with some of its settings moved, as one arm of the study."""

    method: str
    values: Mapping[str, float]
    """value by name of the knob, for those that were moved; empty: the method at its defaults"""

    @property
    def name(self) -> str:
        """Name of the arm: `Muon, alpha 0.45`."""
        return ", ".join([self.method, *(f"{name} {value:g}" for name, value in self.values.items())])


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Statements):
    """Methods at the defaults of a preset, and each again with one setting moved, or two: those of the surface.

    Nothing is tuned: every point runs on the same seeds and is compared with its method's defaults.
    """

    methods: Mapping[str, Mapping[str, Any]]
    """configuration fields by name of the method"""
    surface: tuple[Knob, Knob]
    """two knobs that are moved together too, over the whole grid of their values"""
    knobs: tuple[Knob, ...]
    """knobs that are only moved alone"""
    rule: Rule
    """judges a point against its method's defaults; predicts a lower metric, that is, a better value"""
    seeds: int = 5

    def __post_init__(self) -> None:
        check(self.rule.predicted == "lower", f"{self.name}: a better value is predicted to give a lower metric")
        unknown = {name for knob in self.all_knobs() for name in knob.methods} - set(self.methods)
        check(not unknown, f"{self.name}: knobs of unknown methods: {sorted(unknown)}")
        names = [knob.name for knob in self.all_knobs()]
        check(len({*names}) == len(names), f"{self.name}: names of knobs must differ: {names}")
        check(not any(knob.methods for knob in self.surface), f"{self.name}: the surface's knobs are of all methods")

    def all_knobs(self, method: str | None = None) -> list[Knob]:
        """Return all knobs, or those of one method."""
        knobs = [*self.surface, *self.knobs]
        return [knob for knob in knobs if method is None or not knob.methods or method in knob.methods]

    def default(self, knob: Knob, method: str, preset: str) -> float:
        """Return the default of a knob for a method at a preset."""
        return default_value(resolve(preset, **{**self.fields, **self.methods[method]}), knob.field)

    def values(self, knob: Knob, method: str, preset: str) -> tuple[float, ...]:
        """Return all values of a knob for a method at a preset, the default among them, increasing."""
        default = self.default(knob, method, preset)
        found = sorted({default, *(float(f"{value:.6g}") for value in knob.moved(default))})
        known = len(found) == 1 + len(knob.moved(default)) > 1
        check(known, f"{self.name}: {knob.name} must move {default:g} to other values, each once")
        return tuple(found)

    def points(self, preset: str) -> list[Point]:
        """Return the points of all methods: the defaults, the surface, and every other knob moved alone."""
        found = []
        for method in self.methods:
            grids = [[(k.name, value) for value in self.values(k, method, preset)] for k in self.surface]
            moved = [dict(pair) for pair in itertools.product(*grids)]
            moved += [{k.name: value} for k in self.all_knobs(method)[2:] for value in self.values(k, method, preset)]
            defaults = {knob.name: self.default(knob, method, preset) for knob in self.all_knobs(method)}
            each = [{name: value for name, value in one.items() if value != defaults[name]} for one in moved]
            found += [Point(method=method, values={})] + [Point(method=method, values=one) for one in each if one]
        return found

    def at(self, preset: str) -> Campaign:
        """Return the study at a preset as a campaign whose baselines are the methods at their defaults."""
        field_of = {knob.name: knob.field for knob in self.all_knobs()}
        arms = []
        for point in self.points(preset):
            fields = {**self.methods[point.method], **{field_of[name]: v for name, v in point.values.items()}}
            lr = fields.pop("lr", resolve(preset, **{**self.fields, **self.methods[point.method]}).optim.lr)
            arms.append(Method(name=point.name, fields=fields, lrs=(lr,), family=point.method))
        return Campaign(
            **{**self.statements(), "preset": preset}, methods=tuple(arms), baselines=tuple(self.methods),
            rule=self.rule, tuning_seeds=self.seeds, comparison_seeds=self.seeds,
        )  # fmt: skip


def default_value(config: RunConfig, name: str) -> float:
    """Return the number that a field stands for."""
    resolved = {"logit_scale_init": config.model.initial_logit_scale, "aux_lr": config.optim.resolved_aux_lr}
    return float(resolved.get(name, flatten(config)[name]))
