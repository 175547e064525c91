"""Learning-rate factor and momentum over a run, against hand calculations and general properties."""

import doctest
import math
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngpt.config import DECAYING, OptimConfig, Schedule
from ngpt.optim import schedules
from ngpt.optim.schedules import lr_factor, momentum_at
from ngpt.presets import resolve

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
    ({"schedule": "cosine", "decay_share": 0.5}, 0.5, 1.0),
    ({"schedule": "cosine", "decay_share": 0.5}, 0.75, 0.5),
    ({"schedule": "linear", "decay_share": 0.5, "lr_floor": 0.2}, 0.75, 0.6),
    ({"schedule": "sqrt"}, 0.25, 0.5),
    ({"schedule": "sqrt", "lr_floor": 0.2}, 0.25, 0.6),
    ({"schedule": "sqrt", "decay_share": 0.4}, 0.6, 1.0),
    ({"schedule": "sqrt", "decay_share": 0.4}, 0.7, 0.5),
    ({"schedule": "power"}, 0.5, 0.435275281648062),  # 2^-1.2
    ({"schedule": "power", "decay_power": 2.0}, 0.75, 0.0625),
    ({"schedule": "power", "decay_power": 2.0, "decay_share": 0.5, "lr_floor": 0.5}, 0.75, 0.625),
    ({"schedule": "log", "decay_rho": 1 / 3}, 1 / 3, 0.5),  # log 2 / log 4
    ({"schedule": "log", "decay_rho": 1 / 7}, 3 / 7, 1 / 3),  # log 4 / log 8
    ({"schedule": "log", "decay_rho": 1 / 3, "decay_share": 0.5, "lr_floor": 0.2}, 2 / 3, 0.6),
    ({"schedule": "log"}, 0.1, 1 - math.log(2) / math.log(11)),
]

ROUNDING = 1e-15
"""A few float64 operations on numbers up to 1"""


@pytest.mark.parametrize(("fields", "progress", "factor"), BY_HAND)
def test_factor_by_hand(fields: dict[str, Any], progress: float, factor: float) -> None:
    assert lr_factor(OptimConfig(**fields), step=7, progress=progress) == pytest.approx(factor, abs=ROUNDING)


@pytest.mark.parametrize("schedule", typing.get_args(Schedule))
@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("share", [None, 0.35, 1.0])
def test_a_schedule_never_rises_and_ends_at_its_floor(schedule: Any, floor: float, share: float | None) -> None:
    optim = OptimConfig(schedule=schedule, lr_floor=floor, decay_share=share)
    factors = [lr_factor(optim, step=step, progress=step / 1000) for step in range(1001)]
    assert factors[0] == 1.0
    assert all(later <= earlier for earlier, later in zip(factors, factors[1:], strict=False))
    assert factors[-1] == pytest.approx(1.0 if schedule == "constant" else floor, abs=ROUNDING)
    start = 1 - optim.resolved_decay_share
    assert {factor for step, factor in enumerate(factors) if step <= 1000 * start} == {1.0}
    if schedule not in ("sqrt", "log"):  # no jump: none falls faster than the cosine's pi/2 or 1/0.2 a run
        assert max(a - b for a, b in zip(factors, factors[1:], strict=False)) <= 5e-3 + ROUNDING


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    schedule=st.sampled_from(DECAYING["schedule"]), floor=st.floats(0, 0.99), share=st.floats(1e-3, 1),
    power=st.floats(0.1, 10), rho=st.floats(1e-6, 1e6), early=st.floats(0, 1), late=st.floats(0, 1),
)  # fmt: skip
def test_any_decay_falls_from_1_to_its_floor(
    schedule: Any, floor: float, share: float, power: float, rho: float, early: float, late: float
) -> None:
    optim = OptimConfig(schedule=schedule, lr_floor=floor, decay_share=share, decay_power=power, decay_rho=rho)
    first, last = (lr_factor(optim, step=0, progress=p) for p in sorted((early, late)))
    assert 1 + ROUNDING >= first >= last - ROUNDING and last >= floor - ROUNDING
    assert lr_factor(optim, step=0, progress=0.0) == pytest.approx(1.0, abs=ROUNDING)
    # where the progress within the decay is rounded before 1, a slope of 1 / rho or a small power shows it
    assert lr_factor(optim, step=0, progress=1.0) == pytest.approx(floor, abs=1e-12 / share + (1e-12 / share) ** power)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(share=st.floats(1e-3, 1), floor=st.floats(0, 0.99), progress=st.floats(0, 1))
def test_wsd_and_linear_are_the_same_with_the_same_share(share: float, floor: float, progress: float) -> None:
    one, other, power = (
        lr_factor(OptimConfig(schedule=name, decay_share=share, lr_floor=floor, **more), step=0, progress=progress)
        for name, more in (("wsd", {}), ("linear", {}), ("power", {"decay_power": 1.0}))
    )
    assert one == other == pytest.approx(power, abs=ROUNDING)


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_log_decay_is_linear_for_a_large_rho_and_falls_earlier_for_a_smaller_one(progress: float) -> None:
    factors = [
        lr_factor(OptimConfig(schedule="log", decay_rho=rho), step=0, progress=progress) for rho in (1e6, 1.0, 0.01)
    ]
    assert factors[0] == pytest.approx(1 - progress, abs=1e-6)
    assert factors == sorted(factors, reverse=True) and (len(set(factors)) == 3) == (0 < progress < 1)


def test_the_share_is_the_schedules_own_unless_it_is_given() -> None:
    assert resolve(schedule="wsd").optim.decay_share == 0.2
    assert {resolve(schedule=name).optim.decay_share for name in DECAYING["schedule"] if name != "wsd"} == {1.0}
    assert resolve(schedule="sqrt", decay_share=0.4).optim.resolved_decay_share == 0.4
    assert resolve("paper", schedule="wsd") == resolve("paper", schedule="wsd", decay_share=0.2)


def test_the_examples_in_the_documentation() -> None:
    assert doctest.testmod(schedules) == (0, 4)


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
