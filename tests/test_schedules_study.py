"""The study of schedules: its rule for the ladder, and that every family has every schedule."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.schedules import CAMPAIGN, FAMILIES, SCHEDULES, ladder_schedule, named


def analysis(**losses: float) -> Any:
    """What `ladder_schedule` reads of an analysis: 2.0 everywhere but where `losses` says otherwise."""
    found = []
    for place, family in enumerate(FAMILIES):
        for schedule in SCHEDULES:
            loss = losses.get(schedule.replace(" ", "_").replace(".", ""), 2.0) + 0.1 * (place - 1)
            comparison = np.array([loss - 0.3, loss + 0.3])
            found.append(SimpleNamespace(method=SimpleNamespace(name=named(family, schedule)), comparison=comparison))
    return SimpleNamespace(summaries=found)


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
    assert ladder_schedule(analysis(**losses)) == chosen


def test_every_family_has_every_schedule_and_they_count_alike() -> None:
    assert [method.name for method in CAMPAIGN.methods] == [named(f, s) for f in FAMILIES for s in SCHEDULES]
    for contrast in CAMPAIGN.leading:
        assert sorted(contrast.weights.values()) == pytest.approx([-1 / 3] * 3 + [1 / 3] * 3)
