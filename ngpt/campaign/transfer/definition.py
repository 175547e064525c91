"""The statements of a study of rates across widths: methods, widths, rates, and the rules that are tested. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ngpt.campaign.definition import Campaign, Method, Rule
from ngpt.campaign.definition.experiment import Statements
from ngpt.campaign.definition.rule import check
from ngpt.presets import HEAD_WIDTH, resolve

Quantity = Literal["angle", "rate"]
"""what is best at a width: the angle per step, or the hidden rate"""


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A method, its rates at the base width, and how a rate scales with width if the angle per step stays the same."""

    fields: Mapping[str, Any]
    """configuration fields that define it"""
    lr: float
    """hidden rate in the middle of the grid, at the base width"""
    exponent: float
    """rates of equal angle are proportional to width to this power: 0 for a step that is an angle or an orthogonal
    matrix, -1/2 for one whose entries have a fixed size"""


@dataclass(frozen=True, kw_only=True)
class ScalingRule:
    """A rule by which a rate is carried from one width to another."""

    name: str
    exponent: float
    """the best angle per step, or the best rate, is proportional to width to this power"""
    of: Quantity = "angle"
    methods: tuple[str, ...] = ()
    """names of the methods that it is about; empty: all"""


@dataclass(frozen=True, kw_only=True)
class Transfer(Statements):
    """Methods at several widths, each over a grid of rates that turn the vectors by the same angles at every width.

    Depth, head width, batches and steps are those of the preset and `fields`, whatever the width. The auxiliary rate is
    the preset's, times (width / base)^(-1/2): AdamW turns a vector by an angle proportional to the root of its length.
    """

    methods: Mapping[str, Scaled]
    widths: tuple[int, ...]
    """multiples of the head width, increasing"""
    base: int
    """the width from which rates are carried; one of `widths`"""
    factors: tuple[float, ...]
    """rates as multiples of that in the middle of the grid, increasing"""
    rules: tuple[ScalingRule, ...]
    """rules that are tested"""
    tolerance: float
    """exponents that differ by less are the same for practice"""
    seeds: int = 5

    def __post_init__(self) -> None:
        check(len(self.widths) > 2 and self.base in self.widths, f"{self.name}: three widths or more, with the base")
        heads = all(width % HEAD_WIDTH == 0 for width in self.widths)
        check(heads and [*self.widths] == sorted({*self.widths}), f"{self.name}: widths are multiples of {HEAD_WIDTH}")
        sound = 1.0 in self.factors and len(self.factors) > 2 and [*self.factors] == sorted({*self.factors})
        check(sound, f"{self.name}: three factors or more, increasing, with 1")
        unknown = {name for rule in self.rules for name in rule.methods} - set(self.methods)
        check(not unknown, f"{self.name}: rules for unknown methods: {sorted(unknown)}")
        check(self.seeds > 2, f"{self.name}: an interval over seeds takes three")

    def rules_of(self, method: str) -> list[ScalingRule]:
        """Return the rules that are about a method."""
        return [rule for rule in self.rules if not rule.methods or method in rule.methods]

    def rates(self, method: str, width: int) -> tuple[float, ...]:
        """Return the grid of the hidden rate of a method at a width."""
        scaled = self.methods[method]
        center = scaled.lr * (width / self.base) ** scaled.exponent
        return tuple(float(f"{factor * center:.4g}") for factor in self.factors)

    def arms(self, preset: str) -> dict[str, list[tuple[int, list[Method]]]]:
        """Return by method, for each width, its arms at that width, one for each rate.

        The base width comes first: its model stands for the study where one model is named.
        """
        found: dict[str, list[tuple[int, list[Method]]]] = {}
        for name, scaled in self.methods.items():
            aux_lr = resolve(preset, **{**self.fields, **scaled.fields}).optim.resolved_aux_lr
            for width in sorted(self.widths, key=lambda width: width != self.base):
                family = f"{name}, {width} wide"
                fields = {**scaled.fields, "n_embd": width, "n_head": width // HEAD_WIDTH,
                          "aux_lr": float(f"{aux_lr * math.sqrt(self.base / width):.4g}")}  # fmt: skip
                arms = [Method(name=f"{family}, lr {lr:g}", fields=fields, lrs=(lr,), family=family)
                        for lr in self.rates(name, width)]  # fmt: skip
                found.setdefault(name, []).append((width, arms))
        return found

    def at(self, preset: str) -> Campaign:
        """Return the study at a preset as a campaign that tunes nothing; its baselines are the rates in the middle."""
        families = [arms for places in self.arms(preset).values() for _, arms in places]
        middle = self.factors.index(1.0)
        return Campaign(
            **{**self.statements(), "preset": preset}, methods=tuple(arm for arms in families for arm in arms),
            baselines=tuple(arms[middle].name for arms in families),
            rule=Rule(metric="final_val_loss", predicted=None, smallest_effect=0.02, unit="nats per token",
                      seeds=self.seeds),
            tuning_seeds=self.seeds, comparison_seeds=self.seeds,
            depends_on=(repr((self.base, self.rules, self.tolerance)),),
        )  # fmt: skip
