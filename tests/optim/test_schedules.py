"""Learning-rate factor and momentum over a run, against hand calculations and general properties."""

import math
from typing import Any

import pytest

from ngpt.config import OptimConfig
from ngpt.optim.schedules import lr_factor, momentum_at

BY_HAND: list[tuple[dict[str, Any], float, float]] = [
    ({"schedule": "constant"}, 0.0, 1.0),
    ({"schedule": "constant"}, 1.0, 1.0),
    ({"schedule": "cosine"}, 0.0, 1.0),
    ({"schedule": "cosine"}, 1 / 3, 0.75),
    ({"schedule": "cosine"}, 0.5, 0.5),
    ({"schedule": "cosine"}, 1.0, 0.0),
    ({"schedule": "cosine", "lr_floor": 0.2}, 0.5, 0.6),
    ({"schedule": "cosine", "lr_floor": 0.2}, 1.0, 0.2),
    ({"schedule": "linear"}, 0.25, 0.75),
    ({"schedule": "linear"}, 1.0, 0.0),
    ({"schedule": "linear", "lr_floor": 0.2}, 0.25, 0.8),
    ({"schedule": "wsd"}, 0.0, 1.0),
    ({"schedule": "wsd"}, 0.8, 1.0),
    ({"schedule": "wsd"}, 0.9, 0.5),
    ({"schedule": "wsd"}, 1.0, 0.0),
    ({"schedule": "wsd", "decay_share": 0.5, "lr_floor": 0.2}, 0.5, 1.0),
    ({"schedule": "wsd", "decay_share": 0.5, "lr_floor": 0.2}, 0.75, 0.6),
    ({"schedule": "wsd", "decay_share": 0.5, "lr_floor": 0.2}, 1.0, 0.2),
    ({"schedule": "wsd", "decay_share": 1.0}, 0.25, 0.75),
]

ROUNDING = 1e-15
"""A few float64 operations on numbers up to 1"""


@pytest.mark.parametrize(("fields", "progress", "factor"), BY_HAND)
def test_factor_by_hand(fields: dict[str, Any], progress: float, factor: float) -> None:
    assert lr_factor(OptimConfig(**fields), step=7, progress=progress) == pytest.approx(factor, abs=ROUNDING)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "wsd"])
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_a_schedule_never_rises_and_ends_at_its_floor(schedule: Any, floor: float) -> None:
    optim = OptimConfig(schedule=schedule, lr_floor=floor)
    factors = [lr_factor(optim, step=step, progress=step / 1000) for step in range(1001)]
    assert factors[0] == 1.0
    assert all(later <= earlier for earlier, later in zip(factors, factors[1:], strict=False))
    assert factors[-1] == pytest.approx(1.0 if schedule == "constant" else floor, abs=ROUNDING)
    # no jump: none of these falls faster than the cosine's pi/2 or the decay's 1/0.2 a run
    assert max(a - b for a, b in zip(factors, factors[1:], strict=False)) <= 5e-3 + ROUNDING


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_warm_up_multiplies_the_schedule_until_it_is_over(schedule: Any) -> None:
    warm, plain = (OptimConfig(schedule=schedule, warmup_steps=steps) for steps in (4, 0))
    ratios = [lr_factor(warm, step=s, progress=s / 20) / lr_factor(plain, step=s, progress=s / 20) for s in range(8)]
    assert ratios == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1], abs=ROUNDING)


def test_momentum_ramps_linearly_and_stays() -> None:
    optim = OptimConfig(momentum_start=0.85, momentum=0.95, momentum_warmup_steps=4)
    ramp = [momentum_at(optim, step=step) for step in (0, 1, 2, 3, 4, 5, 1000)]
    assert ramp == pytest.approx([0.85, 0.875, 0.9, 0.925, 0.95, 0.95, 0.95], abs=ROUNDING)
    falling = OptimConfig(momentum_start=0.99, momentum=0.95, momentum_warmup_steps=2)
    assert [momentum_at(falling, step=step) for step in range(3)] == pytest.approx([0.99, 0.97, 0.95], abs=ROUNDING)
    assert momentum_at(OptimConfig(momentum_start=0.0, momentum=0.5), step=0) == 0.0


def test_momentum_without_a_start_is_constant() -> None:
    assert {momentum_at(OptimConfig(momentum=0.9), step=step) for step in (0, 1, 500)} == {0.9}


def test_the_cosine_is_a_half_wave() -> None:
    optim = OptimConfig(schedule="cosine")
    for p in (0.1, 0.37, 0.9):
        assert lr_factor(optim, step=0, progress=p) == pytest.approx(math.cos(math.pi * p / 2) ** 2, abs=ROUNDING)
