"""What an experiment file states, before any run: question, methods with their grids, baseline, rule. No torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ngpt.campaign.verdict import Rule
from ngpt.config import RunConfig, resolve

MOST_SEEDS = 1000


def tuning_seeds(number: int) -> range:
    """Seeds on which rates are chosen."""
    return range(number)


def comparison_seeds(number: int) -> range:
    """Seeds on which methods are compared: none of them chooses a rate, and no two numbers of seeds share one.

    So a comparison that is repeated with more seeds, because the first one was inconclusive, is a new comparison.
    """
    return range(10_000 * number, 10_000 * number + number)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A step rule and the learning rates at which it is tried; each (method, rate) is an arm."""

    name: str
    """as it stands in tables and figures"""
    fields: Mapping[str, Any]
    """configuration fields that make the method, by the names of `ngpt.config`"""
    lrs: tuple[float, ...]
    """grid of --lr, increasing"""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A figure published elsewhere, shown in the report where data and preset are the same."""

    data: str
    presets: tuple[str, ...]
    text: str
    """figure and source"""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration of a campaign, without its seed."""

    method: str
    lr: float
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method}, lr {self.lr:g}"


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Methods, each tuned over a grid of one size on some seeds and compared at the chosen rate on others."""

    name: str
    """file name of the experiment, the runner and the report's data"""
    title: str
    question: str
    """one sentence, answered by `rule` for each method against `baseline`"""
    claim: str
    """what is predicted and why, with the equation; a paragraph of markdown"""
    methods: tuple[Method, ...]
    baseline: str
    """name of the method the others are compared with"""
    rule: Rule
    preset: str = "tiny"
    tuning_seeds: int = 3
    """seeds an arm on which each method's rate is chosen"""
    comparison_seeds: int = 5
    """further seeds on which the methods are compared, each at its chosen rate; at least `rule.seeds`"""
    references: tuple[Reference, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    """configuration fields that all arms share"""

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names) or self.baseline not in names:
            raise ValueError(f"{self.name}: method names must differ and contain the baseline {self.baseline!r}")
        if len({len(method.lrs) for method in self.methods}) != 1:
            raise ValueError(f"{self.name}: every method is tuned over a grid of the same size")
        if self.comparison_seeds < self.rule.seeds:
            raise ValueError(f"{self.name}: the rule asks for {self.rule.seeds} seeds")

    @property
    def digest(self) -> str:
        """Of all that decides the answer: methods, grids, baseline, rule, seeds and shared fields; not of the words."""
        parts = (self.methods, self.baseline, self.rule, self.comparison_seeds, sorted(self.fields.items()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def report_name(self) -> str:
        """`MUON_LR_SWEEP_REPORT.md` for muon_lr_sweep."""
        return f"{self.name.upper()}_REPORT.md"

    def arms(self) -> list[Arm]:
        """Every method at every rate of its grid."""
        return [Arm(method=m.name, lr=lr, fields={**m.fields, "lr": lr}) for m in self.methods for lr in m.lrs]

    def configure(self, arm: Arm, seed: int, overrides: Mapping[str, Any], preset: str) -> RunConfig:
        """The configuration of one run. `overrides` come from the command line and hold for every arm."""
        return resolve(preset, seed=seed, **{**self.fields, **overrides, **arm.fields})
