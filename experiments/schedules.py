"""Which schedule of the rate gives Muon, geodesic Muon and Adam their best loss at one length of training."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngpt.campaign.definition import Campaign, Contrast, Method, Rule

PRESET = "rung-1"
FAMILIES: dict[str, tuple[dict[str, Any], float]] = {
    "Muon": ({"optimizer": "muon"}, 0.01),
    "geodesic Muon": ({"optimizer": "muon", "geodesic_muon": "lr-norm"}, 0.01),
    "Adam": ({"optimizer": "adam"}, 0.005),
}
"""Configuration fields of each family, and the mean of the hidden rate over a run at the middle of its grids."""
SCHEDULES: dict[str, tuple[dict[str, Any], float]] = {
    "linear": ({"schedule": "linear"}, 1 / 2),
    "wsd 0.5": ({"schedule": "wsd", "decay_share": 0.5}, 3 / 4),
    "wsd 0.2": ({"schedule": "wsd", "decay_share": 0.2}, 9 / 10),
    "cosine": ({"schedule": "cosine"}, 1 / 2),
    "sqrt": ({"schedule": "sqrt"}, 1 / 3),
    "sqrt 0.5": ({"schedule": "sqrt", "decay_share": 0.5}, 2 / 3),
}
"""Schedules from the simplest to the least simple, each with its mean over a run as a share of the peak. A number in a
name is the share of the run in which the rate decays."""
BASELINE = "wsd 0.2"
TIE = 0.005
"""nats per token within which two schedules are as good as each other"""
RULE = Rule(metric="final_val_loss", predicted="lower", smallest_effect=0.01, unit="nats per token", seeds=5)


def named(family: str, schedule: str) -> str:
    """Return the name of a method."""
    return f"{family}, {schedule}"


def grid(family: str, schedule: str) -> tuple[float, ...]:
    """Return the peak hidden rates of a method: their means over a run are half, once and twice the family's."""
    center = FAMILIES[family][1] / SCHEDULES[schedule][1]
    return tuple(float(f"{factor * center:.3g}") for factor in (0.5, 1, 2))


def over_families(schedule: str) -> Contrast:
    """Return the mean over the families of a schedule minus the baseline."""
    share = 1 / len(FAMILIES)
    return Contrast(
        name=f"{schedule} against {BASELINE}, mean of the families",
        weights={
            named(family, name): sign * share for family in FAMILIES for name, sign in ((schedule, 1), (BASELINE, -1))
        },
        question=f"Which schedules beat {BASELINE} on average over the three families?",
        rule=RULE,
    )


def ladder_schedule(losses: Mapping[str, NDArray[np.float64]]) -> str | None:
    """Return the schedule for the ladder of presets by the rule in the claim; None where a run is missing."""
    means = {name: float(np.mean([losses[named(family, name)].mean() for family in FAMILIES])) for name in SCHEDULES}
    if any(math.isnan(mean) for mean in means.values()):
        return None
    return next(name for name, mean in means.items() if mean <= min(means.values()) + TIE)


def follow_up(losses: Mapping[str, NDArray[np.float64]]) -> str:
    """Return what the ladder takes, as a sentence."""
    chosen = ladder_schedule(losses)
    return f"By the rule below, the ladder of presets takes **{chosen}**." if chosen else ""


CAMPAIGN = Campaign(
    name="schedules",
    title="Schedules of the learning rate for Muon, geodesic Muon and Adam on gated nGPT",
    question=f"Does a schedule beat {BASELINE}, the earlier default, within a family of steps?",
    claim=r"""
        All schedules end at zero, and all rates of a run, hidden and auxiliary, follow the same one. With r from 0 to 1
        the progress within the decay, *linear*, *cosine* and *sqrt* multiply the rates by $1 - r$,
        $(1 + \cos \pi r)/2$ and $1 - \sqrt{r}$ over the whole run; *wsd 0.2*, *wsd 0.5* and *sqrt 0.5* keep them
        constant and let them fall in the last 20% or 50%, the first two linearly. The peak of the hidden rate is
        chosen for every method from three, a factor of two apart. Their mean over the run is what a family's grids
        have in common: in pilot runs (`rung-1`, seed 100) the best peaks of *linear*, *wsd 0.2* and *sqrt* had about
        the same one, 0.01 for Muon and 0.005 for Adam. The peak of the auxiliary rate is the preset's for all, so a
        schedule that would like another one is at a disadvantage.

        Two shapes are left out because they nearly repeat these: $(1 - r)^{1.2}$ is nowhere further than 0.07 from
        *linear*, and the logarithmic decay with $\rho = 0.1$ nowhere further than 0.07 from *sqrt*. A constant rate is
        left out because its final weights still carry the noise that a decay removes.

        Prediction: a decay over half of the run or all of it beats one over the last fifth, by 0.01 nats or more, in
        every family. The smallest effect that matters is half of the one used to compare steps, because a schedule
        costs nothing, and a difference of 0.01 between schedules could be mistaken for one between steps.

        What follows, fixed before the runs: the ladder of presets takes the schedule whose final loss on the comparison
        seeds, averaged over the three families at their chosen rates, is lowest. Schedules within 0.005 nats of the
        lowest are tied; of these the first is taken in the order linear, wsd 0.5, wsd 0.2, cosine, sqrt, sqrt 0.5.
        `ladder_schedule` in the experiment's file computes it.
    """,
    methods=tuple(
        Method(name=named(family, name), fields={**of_family, **of_schedule}, lrs=grid(family, name), family=family)
        for family, (of_family, _) in FAMILIES.items()
        for name, (of_schedule, _) in SCHEDULES.items()
    ),
    baselines=tuple(named(family, BASELINE) for family in FAMILIES),
    rule=RULE,
    leading=tuple(over_families(schedule) for schedule in SCHEDULES if schedule != BASELINE),
    preset=PRESET,
    fields={"adam_beta1": 0.9},  # as when it ran: the ladder's own for Adam is another since
    follow_up=follow_up,
    reading=r"""
        Muon and geodesic Muon need a decay longer than the last fifth of the run; beyond that, its shape and length
        matter little. Adam gains less from a longer decay, or nothing, and a square root over the whole run is worse
        for it. So the schedule is part of a comparison of steps: under *wsd 0.2*, Muon's lead over Adam is smaller
        than under any of the others. Nearly every schedule has its best peak in the middle of its grid, which is the
        same mean rate for all of them: a peak carries over to another schedule at an equal mean.
    """,
    does_not_show=r"""
        Which schedule is best at another length of training, size or text, or with an auxiliary rate tuned for each.
    """,
    follows=r"""
        Campaigns use a linear decay to zero, which serves all three families.
    """,
)
