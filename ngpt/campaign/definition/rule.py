"""The rule that decides a comparison, fixed in the experiment file before any run."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Prediction = Literal["lower", "higher", "not lower", "not higher", "level"]

Metric = Literal["final_val_loss", "final_val_bpb"]

Word = Literal["better", "worse", "no difference that matters", "undecided"]
"""the four answers to a contrast; a lower metric is better"""


def check(condition: object, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A prediction for a contrast, and what settles it."""

    metric: Metric
    """field of the run record that decides"""
    predicted: Prediction | None
    """how the contrast is predicted to end, by the smallest effect that matters; `level` means within it on either
    side, None that nothing is predicted"""
    smallest_effect: float
    """smallest difference that matters, in `unit`, positive"""
    unit: str
    """unit of the metric, such as nats per token"""
    seeds: int
    """complete pairs required for any decision, at least 2"""

    def __post_init__(self) -> None:
        check(self.metric in get_args(Metric), f"metric must be one of {get_args(Metric)}, got {self.metric!r}")
        known = get_args(Prediction)
        sound = self.predicted is None or self.predicted in known
        check(sound, f"predicted must be one of {known} or None, got {self.predicted!r}")
        finite = 0 < self.smallest_effect < math.inf
        check(finite, f"smallest_effect must be positive and finite, got {self.smallest_effect}")
        check(self.seeds >= 2, f"a rule needs at least 2 seeds, got {self.seeds}")

    @property
    def confirming(self) -> tuple[Word, ...]:
        """Return the answers that confirm the prediction; none if there is none."""
        words: dict[Prediction | None, tuple[Word, ...]] = {
            "lower": ("better",), "higher": ("worse",), "not lower": ("worse", "no difference that matters"),
            "not higher": ("better", "no difference that matters"), "level": ("no difference that matters",),
        }  # fmt: skip
        return words.get(self.predicted, ())
