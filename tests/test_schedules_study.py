"""The study of schedules: its rule for the ladder, and that every family has every schedule."""

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments.schedules import CAMPAIGN, FAMILIES, SCHEDULES, follow_up, grid, ladder_schedule, named
from ngpt.optim.schedules import lr_factor
from ngpt.presets import resolve


def comparison(**losses: float) -> dict[str, NDArray[np.float64]]:
    """Losses of every method on two seeds: 2.0 on average but where `losses` says otherwise."""
    found = {}
    for place, family in enumerate(FAMILIES):
        for schedule in SCHEDULES:
            loss = losses.get(schedule.replace(" ", "_").replace(".", ""), 2.0) + 0.1 * (place - 1)
            found[named(family, schedule)] = np.array([loss - 0.3, loss + 0.3])
    return found


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ({}, "linear"),
        ({"sqrt": 1.9951}, "linear"),
        ({"sqrt": 1.9949}, "sqrt"),
        ({"wsd_02": 1.99, "cosine": 1.986}, "wsd 0.2"),
        ({"linear": float("nan")}, None),
    ],
)
def test_the_ladder_takes_the_lowest_and_among_equals_the_simplest(
    losses: dict[str, float], chosen: str | None
) -> None:
    assert ladder_schedule(comparison(**losses)) == chosen
    text = follow_up(comparison(**losses))
    assert text == (f"By the rule below, the ladder of presets takes **{chosen}**." if chosen else "")


def test_every_family_has_every_schedule_and_they_count_alike() -> None:
    assert [method.name for method in CAMPAIGN.methods] == [named(f, s) for f in FAMILIES for s in SCHEDULES]
    for contrast in CAMPAIGN.leading:
        assert sorted(contrast.weights.values()) == pytest.approx([-1 / 3] * 3 + [1 / 3] * 3)


def test_every_grid_has_the_same_mean_rates() -> None:
    """A schedule's mean over a run, measured step by step, times its peak rates is its family's, halved and doubled."""
    for family, (of_family, mean) in FAMILIES.items():
        for schedule, (of_schedule, _) in SCHEDULES.items():
            optim = resolve("rung-1", **{**of_family, **of_schedule}).optim
            share = np.mean([lr_factor(optim, step=step, progress=step / 6000) for step in range(6000)])
            peaks = np.array(grid(family, schedule))
            assert peaks * share == pytest.approx(mean * np.array([0.5, 1, 2]), rel=4e-3)  # three digits
