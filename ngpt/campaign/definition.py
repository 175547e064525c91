"""What an experiment file states, before any run: question, methods with their grids, baseline, rule. No torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ngpt.campaign.verdict import Rule
from ngpt.config import RunConfig
from ngpt.presets import resolve

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
    """grid of --lr, increasing; of one rate where the rate is a part of the method"""
    family: str = ""
    """methods of one family are compared with the baseline of that family"""
    position: float | None = None
    """where the method stands on `Campaign.axis`, if it is one point of a scan"""
    pretraining: Mapping[str, Any] | None = field(default=None, repr=False)
    """configuration fields of the run, one a seed, whose weights the method's runs start from, rate included"""
    leaves_out: str = field(default="", repr=False)
    """what the method's baseline has and the method does without, if it is simpler"""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A weighted sum of methods' results, seed by seed, and what would settle the question that it answers."""

    name: str
    """as it stands in tables and figures"""
    weights: Mapping[str, float]
    """weight of each method by its name, zero in sum: +1 and -1 for a method against a baseline"""
    question: str
    """one sentence; the contrasts of one question share one error rate"""
    rule: Rule

    def __post_init__(self) -> None:
        if abs(sum(self.weights.values())) > 1e-12 or not any(self.weights.values()):
            raise ValueError(f"{self.name}: the weights of a contrast are not all zero and sum to zero")

    def suspects(self, label: str) -> list[str]:
        """The methods whose better tuning could overturn a verdict "supported" or "refuted".

        All metrics are losses: a better rate lowers a method's own result, and so moves the contrast by its weight.
        """
        side = {"supported": self.rule.sign, "refuted": -self.rule.sign}.get(label, 0)
        return [name for name, weight in self.weights.items() if weight * side > 0]


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
    """one sentence, answered by `rule` for each method against the baseline of its family"""
    claim: str
    """what is predicted and why, with the equation; a paragraph of markdown"""
    methods: tuple[Method, ...]
    baselines: tuple[str, ...]
    """names of the methods that the others are compared with, one for each family"""
    rule: Rule
    leading: tuple[Contrast, ...] = ()
    """contrasts that answer other questions, which come before `question`"""
    further: tuple[Contrast, ...] = ()
    """contrasts that answer other questions, which come after it"""
    reading: str = ""
    """what the telemetry says of the answers, written when they were there; a paragraph of markdown without numbers"""
    axis: str = ""
    """what the methods' positions are, with its unit, where they are a scan"""
    preset: str = "tiny"
    tuning_seeds: int = 3
    """seeds an arm on which each method's rate is chosen"""
    comparison_seeds: int = 5
    """further seeds on which the methods are compared, each at its chosen rate; at least `rule.seeds`"""
    references: tuple[Reference, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    """configuration fields that all arms share"""
    budget_seconds: float | None = None
    """training time of every run, where runs end by the clock and not after a number of steps"""

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: method names must differ")
        families = [method.family for method in self.methods if method.name in self.baselines]
        if sorted(families) != sorted({method.family for method in self.methods}):
            raise ValueError(f"{self.name}: every family has one baseline, not {self.baselines}")
        if any(set(contrast.weights) - set(names) for contrast in (*self.leading, *self.further)):
            raise ValueError(f"{self.name}: a contrast has a weight for no method")
        if len({len(method.lrs) for method in self.methods} - {1}) > 1:
            raise ValueError(f"{self.name}: every method is tuned over a grid of the same size, or not at all")
        if self.comparison_seeds < self.rule.seeds:
            raise ValueError(f"{self.name}: the rule asks for {self.rule.seeds} seeds")

    @property
    def digest(self) -> str:
        """Of all that decides the answer: methods, grids, contrasts, rules, seeds, shared fields; not of the words."""
        questions = [contrast.question for contrast in self.contrasts()]
        contrasts = [(sorted(c.weights.items()), c.rule, questions.index(c.question)) for c in self.contrasts()]
        sources = [sorted(m.pretraining.items()) for m in self.methods if m.pretraining is not None]
        simpler = [method.name for method in self.methods if method.leaves_out]
        parts = (self.methods, contrasts, self.comparison_seeds, sorted(self.fields.items()), *sources, *simpler)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def report_name(self) -> str:
        """`MUON_LR_SWEEP_REPORT.md` for muon_lr_sweep."""
        return f"{self.name.upper()}_REPORT.md"

    def baseline_of(self, method: Method) -> str:
        """Name of the baseline of the method's family, which may be the method itself."""
        return next(m.name for m in self.methods if m.name in self.baselines and m.family == method.family)

    def contrasts(self) -> list[Contrast]:
        """The leading ones, every method against the baseline of its family, the further ones."""
        plain = [
            Contrast(
                name=f"{method.name} against {baseline}",
                weights={method.name: 1.0, baseline: -1.0},
                question=self.question,
                rule=self.rule,
            )
            for method in self.methods
            if (baseline := self.baseline_of(method)) != method.name
        ]
        return [*self.leading, *plain, *self.further]

    def arms(self) -> list[Arm]:
        """Every method at every rate of its grid."""
        return [Arm(method=m.name, lr=lr, fields={**m.fields, "lr": lr}) for m in self.methods for lr in m.lrs]

    def tuned_arms(self) -> list[Arm]:
        """Those among which a rate is chosen."""
        fixed = {method.name for method in self.methods if len(method.lrs) == 1}
        return [arm for arm in self.arms() if arm.method not in fixed]

    def configure(self, arm: Arm, seed: int, overrides: Mapping[str, Any], preset: str) -> RunConfig:
        """The configuration of one run. `overrides` come from the command line and hold for every arm."""
        budget = {} if self.budget_seconds is None else {"time_budget_seconds": self.budget_seconds}
        return resolve(preset, seed=seed, **{**self.fields, **budget, **overrides, **arm.fields})

    def configure_pretraining(self, method: Method, seed: int, preset: str) -> RunConfig:
        """The configuration of the run whose weights the method's run of this seed starts from.

        It does not depend on the command line, whose data and steps are those of what comes after it.
        """
        assert method.pretraining is not None
        return resolve(preset, seed=seed, **{**self.fields, **method.fields, **method.pretraining})
