"""The rule that decides a comparison, fixed in the experiment file before any run."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Direction = Literal["lower", "higher"]


def check(condition: object, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A prediction for a contrast, and what settles it."""

    metric: str
    """field of the run record that decides, such as `final_val_loss`"""
    predicted: Direction
    """side of zero on which the contrast is predicted to fall"""
    smallest_effect: float
    """smallest difference that matters, in `unit`, positive"""
    unit: str
    """unit of the metric, such as nats per token"""
    seeds: int
    """complete pairs required for any decision, at least 2"""

    def __post_init__(self) -> None:
        known = get_args(Direction)
        check(self.predicted in known, f"predicted must be one of {known}, got {self.predicted!r}")
        finite = 0 < self.smallest_effect < math.inf
        check(finite, f"smallest_effect must be positive and finite, got {self.smallest_effect}")
        check(self.seeds >= 2, f"a rule needs at least 2 seeds, got {self.seeds}")

    @property
    def sign(self) -> int:
        """+1 or -1; times a difference, positive where the prediction came true."""
        return 1 if self.predicted == "higher" else -1
