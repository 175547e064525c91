"""A campaign as an experiment file states it: question, methods with their grids, baselines, rule. No torch."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import cleandoc
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngpt.campaign.definition.experiment import Experiment
from ngpt.campaign.definition.rule import Prediction, Rule, Word, check
from ngpt.config import RunConfig
from ngpt.presets import resolve


@dataclass(frozen=True, kw_only=True)
class Method:
    """An update rule and the rates at which it is tried; each (method, hidden rate, auxiliary rate) is an arm."""

    name: str
    """as shown in tables and figures"""
    fields: Mapping[str, Any]
    """configuration fields that define the method, named as in `ngpt.config`"""
    lrs: tuple[float, ...]
    """grid of --lr, the hidden rate, increasing; a single rate if it is part of the method"""
    family: str = ""
    """each method is compared with the baseline of its family"""
    question: str = field(default="", repr=False)
    """what that comparison answers; empty: the campaign's question"""
    rule: Rule | None = field(default=None, repr=False)
    """what judges that comparison; None: the campaign's rule"""
    position: float | None = None
    """position on `Campaign.axis`, if the method is one point of a scan"""
    at_rates_of: str = field(default="", repr=False)
    """name of the method whose chosen rates it takes, with an empty grid of its own"""
    pretraining: Mapping[str, Any] | None = field(default=None, repr=False)
    """configuration fields, rate included, of the run per seed whose weights the method's runs start from"""
    leaves_out: str = field(default="", repr=False)
    """what the method omits from its baseline, if it is simpler"""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A weighted sum of methods' results, seed by seed, and the rule that judges it."""

    name: str
    """as shown in tables and figures"""
    weights: Mapping[str, float]
    """weight of each method by name, summing to zero: +1 and -1 for a method against a baseline"""
    question: str
    """one sentence; the contrasts of one question share one error rate"""
    rule: Rule
    control: bool = field(default=False, repr=False)
    """whether it compares a method with itself, to show the size of noise, so that no answer is asked for"""

    def __post_init__(self) -> None:
        sound = abs(sum(self.weights.values())) <= 1e-12 and any(self.weights.values())
        check(sound, f"{self.name}: the weights of a contrast are not all zero and sum to zero")

    @property
    def pair(self) -> tuple[str, str] | None:
        """Return the method and the one it is compared with; None for a contrast that is not of two methods."""
        sides = {weight: name for name, weight in self.weights.items() if weight}
        return (sides[1.0], sides[-1.0]) if sides.keys() == {1.0, -1.0} and len(self.weights) == 2 else None

    def methods_that_could_overturn(self, word: Word) -> list[str]:
        """Return the methods whose better tuning could overturn an answer.

        All metrics are losses: a better rate lowers a method's own result and moves the contrast by its weight.
        """
        if word == "undecided":
            return []
        sides = {"better": (-1,), "worse": (1,)}.get(word, (-1, 1))
        return [name for name, weight in self.weights.items() if any(weight * side > 0 for side in sides)]


def on_other_batches(method: Method) -> Method:
    """Return a method again, at its chosen rates, on the same data in another order: a control for noise."""
    return Method(
        name=f"{method.name}, other batches", fields={**method.fields, "data_order": 1}, lrs=(),
        at_rates_of=method.name, family="other batches",
    )  # fmt: skip


def noise_of(method: Method, rule: Rule) -> Contrast:
    """Return the contrast of a method on other batches with itself."""
    again = on_other_batches(method)
    return Contrast(
        name=f"{again.name} against {method.name}", weights={again.name: 1.0, method.name: -1.0}, rule=rule,
        question=f"Control: how much do other batches change {method.name}?", control=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration of a campaign, without its seed."""

    method: str
    lr: float
    """rate of the hidden matrices"""
    aux_lr: float | None = None
    """rate of everything else, where the campaign tunes it; None: the configuration's"""
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name shown to people."""
        return f"{self.method}, {rates_text(self.lr, self.aux_lr)}"


def rates_text(lr: float, aux_lr: float | None) -> str:
    """Return the rates of an arm, as shown to people.

    >>> rates_text(0.03, None), rates_text(0.03, 0.005)
    ('lr 0.03', 'lr 0.03, aux 0.005')
    """
    return f"lr {lr:g}" + ("" if aux_lr is None else f", aux {aux_lr:g}")


@dataclass(frozen=True, kw_only=True)
class AtScale:
    """A campaign's statements for another preset: fewer methods or other rates where runs are long, and what they show.

    `reading`, `does_not_show` and `follows` as in `Experiment`.
    """

    lrs: Mapping[str, tuple[float, ...]] | None = None
    """grid of the hidden rate of each method that is compared there, by name; None: all methods, at the rates and on as
    many seeds as the campaign states"""
    aux_lrs: tuple[float, ...] = ()
    """as in `Campaign`, with `lrs`; empty: the auxiliary rate of `fields` serves all methods"""
    fields: Mapping[str, Any] | None = None
    """configuration fields shared by all runs; None: those of the campaign"""
    comparison_seeds: int = 5
    """as in `Campaign`, with `lrs`"""
    budget_seconds: float | None = None
    """training time of every run, if runs end by the clock; None: that of the campaign"""
    claim: str = ""
    """what is predicted there; markdown"""
    question: str = ""
    """what takes the place of the campaign's question there; empty: the campaign's question"""
    predicted: Mapping[str, Prediction | None] = field(default_factory=dict)
    """prediction for each question that has another one there"""
    forecast_from: tuple[str, ...] = ()
    """presets whose results forecast those there; the forecast is written before the first run"""
    reading: str = ""
    does_not_show: str = ""
    follows: str = ""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Statements after the runs on another text, as in `Experiment`."""

    reading: str
    does_not_show: str = ""
    follows: str = ""


@dataclass(frozen=True, kw_only=True)
class Campaign(Experiment):
    """Methods, each tuned over grids of the same size on some seeds and compared at its chosen rates on others.

    Tuning has two stages on the same seeds: the hidden rate, at the auxiliary rate that `fields` states; then, with
    `aux_lrs`, the auxiliary rate at the hidden rate just chosen. A method whose hidden rate is part of the method skips
    the first stage, not the second. `question` is answered by `rule` for each method against the baseline of its
    family, unless the method states a question or a rule of its own.
    """

    methods: tuple[Method, ...]
    baselines: tuple[str, ...]
    """names of the methods that the others are compared with, one per family"""
    rule: Rule
    leading: tuple[Contrast, ...] = ()
    """contrasts of other questions, shown before `question`"""
    further: tuple[Contrast, ...] = ()
    """contrasts of other questions, shown after it"""
    axis: str = ""
    """what `Method.position` measures, with its unit, if the methods are a scan"""
    subject: str = field(default="", repr=False)
    """name of the method that a campaign is made for, whatever its results: the report begins with its answers, and
    what the campaign says beside them holds for any data"""
    aux_lrs: tuple[float, ...] = ()
    """grid of --aux-lr, the auxiliary rate, for every method, increasing; contains `fields["aux_lr"]`. Empty: that rate
    is not tuned"""
    tuning_seeds: int = 3
    """seeds on which each method chooses its rates"""
    comparison_seeds: int = 5
    """further seeds on which the methods are compared, each at its chosen rate; at least `rule.seeds`"""
    published: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """figures published elsewhere and their source, by the data and the preset with which the report shows them"""
    at_preset: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """configuration fields of every run at a preset, by its name, beside `fields`"""
    at_scale: Mapping[str, AtScale] = field(default_factory=dict, repr=False)
    """what is stated for other presets, by name; at one without such a statement, all methods and rates are tried"""
    on_texts: Mapping[tuple[str, str], Reading] = field(default_factory=dict, repr=False)
    """what the results on texts with a name show, by preset and text"""
    forecast_from: tuple[str, ...] = field(default=(), repr=False)
    """as in `AtScale`"""
    follow_up: Callable[[Mapping[str, NDArray[np.float64]]], str] | None = field(default=None, repr=False)
    """losses on the comparison seeds by method -> what follows from them by a rule in `claim`, as a sentence"""
    depends_on: tuple[str, ...] = field(default=(), repr=False)
    """digests of what results depend on beside these statements and the configurations"""
    budget_seconds: float | None = None
    """training time of every run, if runs end by the clock rather than after a number of steps"""

    def __post_init__(self) -> None:
        names = {method.name for method in self.methods}
        check(len(names) == len(self.methods), f"{self.name}: method names must differ")
        families = sorted(method.family for method in self.methods if method.name in self.baselines)
        each_once = families == sorted({method.family for method in self.methods})
        check(each_once, f"{self.name}: every family has one baseline, not {self.baselines}")
        known = all(names.issuperset(contrast.weights) for contrast in (*self.leading, *self.further))
        check(known, f"{self.name}: a contrast has a weight for no method")
        grids = [*(method.lrs for method in self.methods), self.aux_lrs]
        check(all(list(grid) == sorted({*grid}) for grid in grids), f"{self.name}: the rates of a grid increase")
        contrasts = self.contrasts()
        check(len({c.name for c in contrasts}) == len(contrasts), f"{self.name}: names of contrasts must differ")
        measures = {(contrast.rule.metric, contrast.rule.unit) for contrast in contrasts}
        check(measures <= {(self.rule.metric, self.rule.unit)}, f"{self.name}: all rules judge one metric in one unit")
        rules = {contrast.question: contrast.rule for contrast in contrasts}
        one = all(contrast.rule == rules[contrast.question] for contrast in contrasts)
        check(one, f"{self.name}: the contrasts of one question have one rule")
        sizes = {len(method.lrs) for method in self.methods} - {0, 1}
        check(len(sizes) <= 1, f"{self.name}: every method is tuned over a grid of the same size, or not at all")
        tuned = {method.name for method in self.methods if method.lrs}
        lent = all(method.at_rates_of in tuned if not method.lrs else not method.at_rates_of for method in self.methods)
        check(lent, f"{self.name}: a method has a grid of its own or the rates of one that has")
        least = max(rule.seeds for rule in (self.rule, *rules.values()))
        check(self.comparison_seeds >= least, f"{self.name}: the rule asks for {least} seeds")
        default = self.fields.get("aux_lr")
        why = f"{self.name}: the grid of the auxiliary rate must contain fields['aux_lr'], which is {default}"
        check(not self.aux_lrs or default in self.aux_lrs, why)
        own = [method.name for method in self.methods if self.aux_lrs and "aux_lr" in method.fields]
        check(not own, f"{self.name}: the auxiliary rate is tuned, so {own} cannot state one")
        elsewhere = [preset for preset, _ in self.on_texts if preset not in (self.preset, *self.at_scale)]
        check(not elsewhere, f"{self.name}: a reading at {elsewhere}, where nothing is stated")
        for preset, there in self.at_scale.items():
            place = f"{self.name} at {preset}"
            check(preset != self.preset, f"{place}: the usual preset")
            check(names >= (there.lrs or {}).keys(), f"{place}: rates of no method")
            by_clock = there.budget_seconds is None or self.budget_seconds is not None
            check(by_clock, f"{place}: a training time, where runs end after their steps")
            others = {self.preset, *self.at_scale} - {preset}
            check(others.issuperset(there.forecast_from), f"{place}: forecast from a preset that is not stated")
            check(there.lrs is not None or there.aux_lrs == (), f"{place}: a grid of the auxiliary rate without `lrs`")
            asked = {contrast.question for contrast in self.at(preset).contrasts()}  # as sound as this
            check(asked >= there.predicted.keys(), f"{place}: a prediction for no question")

    @property
    def _identity(self) -> tuple[Any, ...]:
        questions = [contrast.question for contrast in self.contrasts()]
        contrasts = [(sorted(c.weights.items()), c.rule, questions.index(c.question)) for c in self.contrasts()]
        sources = [sorted(m.pretraining.items()) for m in self.methods if m.pretraining is not None]
        simpler = [method.name for method in self.methods if method.leaves_out]
        lent = [(method.name, method.at_rates_of) for method in self.methods if method.at_rates_of]
        added = [part for part in (self.aux_lrs, sorted(self._of_presets()), lent, self.depends_on) if part]
        return (self.methods, contrasts, self.comparison_seeds, sorted(self.fields.items()), *sources, *simpler, *added)

    def _of_presets(self) -> list[tuple[str, str, Any]]:
        return [(preset, *item) for preset, fields in self.at_preset.items() for item in fields.items()]

    def at(self, preset: str) -> "Campaign":
        """Return the campaign that is carried out at a preset."""
        if preset == self.preset:
            return self
        there = self.at_scale.get(preset, AtScale())
        question = there.question or self.question
        claim = f"{cleandoc(self.claim)}\n\n**At `{preset}`.** {cleandoc(there.claim)}" if there.claim else self.claim
        methods = [method for method in self.methods if there.lrs is None or method.name in there.lrs]
        names = {method.name for method in methods}

        def ruled(question: str, rule: Rule) -> Rule:
            predicted = there.predicted
            return dataclasses.replace(rule, predicted=predicted[question]) if question in predicted else rule

        def with_own_rule(method: Method) -> Method:
            own = method.question or method.rule is not None
            rule = ruled(method.question or question, method.rule or self.rule) if own else None
            lrs = method.lrs if there.lrs is None else there.lrs[method.name]
            return dataclasses.replace(method, rule=rule, lrs=lrs)

        def of_these(contrasts: tuple[Contrast, ...]) -> tuple[Contrast, ...]:
            return tuple(dataclasses.replace(one, rule=ruled(one.question, one.rule))
                         for one in contrasts if names >= one.weights.keys())  # fmt: skip

        return dataclasses.replace(
            self, preset=preset, claim=claim, question=question, reading=there.reading, follows=there.follows,
            does_not_show=there.does_not_show, follow_up=None, at_scale={}, forecast_from=there.forecast_from,
            on_texts={place: reading for place, reading in self.on_texts.items() if place[0] == preset},
            fields=self.fields if there.fields is None else there.fields,
            budget_seconds=there.budget_seconds or self.budget_seconds,
            rule=ruled(question, self.rule), methods=tuple(map(with_own_rule, methods)),
            baselines=tuple(name for name in self.baselines if name in names),
            leading=of_these(self.leading), further=of_these(self.further),
            aux_lrs=self.aux_lrs if there.lrs is None else there.aux_lrs,
            comparison_seeds=self.comparison_seeds if there.lrs is None else there.comparison_seeds,
        )  # fmt: skip

    def on(self, text: str) -> "Campaign":
        """Return the campaign on a text that has a name, which differs in what its results show."""
        found = self.on_texts.get((self.preset, text), Reading(reading=""))
        return dataclasses.replace(self, text=text, follow_up=None, on_texts={}, **dataclasses.asdict(found))

    def fields_at(self, preset: str) -> dict[str, Any]:
        """Return the configuration fields that all runs at a preset have in common."""
        return {**self.fields, **self.at_preset.get(preset, {})}

    def baseline_of(self, method: Method) -> str:
        """Return the name of the baseline of the method's family, which may be the method itself."""
        return next(m.name for m in self.methods if m.name in self.baselines and m.family == method.family)

    def rival_of(self, method: Method) -> str:
        """Return the name of what a method's pace is set against: its baseline; for a baseline, that of another family.

        A baseline that no contrast compares with another is its own rival.
        """
        baseline = self.baseline_of(method)
        pairs = [c.pair for c in self.contrasts() if c.pair is not None and not c.control]
        others = [other for one, other in pairs if one == baseline and other in self.baselines]
        return others[0] if others and baseline == method.name else baseline

    def against_baselines(self) -> list[Contrast]:
        """Return every method against the baseline of its family."""
        return [
            Contrast(name=f"{method.name} against {baseline}", weights={method.name: 1.0, baseline: -1.0},
                     question=method.question or self.question, rule=method.rule or self.rule)
            for method in self.methods if (baseline := self.baseline_of(method)) != method.name
        ]  # fmt: skip

    def contrasts(self) -> list[Contrast]:
        """Return the leading contrasts, every method against the baseline of its family, and the further ones."""
        return [*self.leading, *self.against_baselines(), *self.further]

    def arms(self) -> list[Arm]:
        """Return every method at every hidden rate of its grid, at the auxiliary rate of `fields`."""
        default = self.fields["aux_lr"] if self.aux_lrs else None
        return [self._arm(method, lr, default) for method in self.methods for lr in method.lrs]

    def auxiliary_arms(self, chosen: Mapping[str, Arm]) -> list[Arm]:
        """Return every chosen arm at every auxiliary rate of the grid; empty if there is no such grid."""
        methods = {method.name: method for method in self.methods}
        return [self._arm(methods[name], arm.lr, aux_lr) for name, arm in chosen.items() for aux_lr in self.aux_lrs]

    def with_lent_rates(self, chosen: Mapping[str, Arm]) -> dict[str, Arm]:
        """Return the chosen arms and, in the methods' order, those of methods that take the rates of another."""
        found: dict[str, Arm] = {}
        for method in self.methods:
            source = chosen.get(method.at_rates_of or method.name)
            if source is not None:
                found[method.name] = self._arm(method, source.lr, source.aux_lr)
        return found

    def _arm(self, method: Method, lr: float, aux_lr: float | None) -> Arm:
        tuned = {} if aux_lr is None else {"aux_lr": aux_lr}
        return Arm(method=method.name, lr=lr, aux_lr=aux_lr, fields={**method.fields, "lr": lr, **tuned})

    @property
    def tuned(self) -> bool:
        """Return whether any rate is chosen on tuning seeds; otherwise each is part of its method."""
        return bool(self.aux_lrs) or any(len(method.lrs) > 1 for method in self.methods)

    def tuned_arms(self) -> list[Arm]:
        """Return the arms among which a hidden rate is chosen."""
        tuned = {method.name for method in self.methods if len(method.lrs) > 1}
        return [arm for arm in self.arms() if arm.method in tuned]

    def configure(self, arm: Arm, seed: int, overrides: Mapping[str, Any], preset: str) -> RunConfig:
        """Return the configuration of one run. `overrides` come from the command line and apply to every arm."""
        budget = {} if self.budget_seconds is None else {"time_budget_seconds": self.budget_seconds}
        return resolve(preset, seed=seed, **{**self.fields_at(preset), **budget, **overrides, **arm.fields})

    def configure_pretraining(self, method: Method, seed: int, preset: str) -> RunConfig:
        """Return the configuration of the run whose weights the method's run of this seed starts from.

        It does not depend on the command line, whose data and steps apply to the runs that follow.
        """
        assert method.pretraining is not None
        return resolve(preset, seed=seed, **{**self.fields_at(preset), **method.fields, **method.pretraining})
