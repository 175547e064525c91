"""The same comparison in several campaigns, and what all their seeds say together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special, stats

from experiments import (
    advanced_features,
    geodesic_muon,
    muon_lr_sweep,
    orthogonality,
    projection_frequency,
    scaling_ladder,
    sphere_finalists,
)
from ngpt.campaign.analysis.analyze import MethodSummary, analyze, rates_of
from ngpt.campaign.analysis.statistics import LEVEL, PairedDifference, paired_difference
from ngpt.campaign.analysis.verdict import rates_at_edges
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign
from ngpt.campaign.report.index import final_data
from ngpt.campaign.report.markdown import share_text
from ngpt.campaign.report.words import TEXTS, interval_text, is_cpu, millions, number

Place = tuple[Campaign, str, str]
"""a campaign, and the two of its methods that are compared, first minus second"""

COMPARISONS: dict[str, tuple[Place, ...]] = {
    "Muon against Adam": (
        (muon_lr_sweep.CAMPAIGN, "Muon", "Adam"), (scaling_ladder.CAMPAIGN, "Muon", "Adam"),
    ),
    "geodesic step, θ = lr‖u‖, against projection": (
        (geodesic_muon.CAMPAIGN, "geodesic, θ = lr‖u‖", "projection"),
        (sphere_finalists.CAMPAIGN, "geodesic Muon", "Muon"), (scaling_ladder.CAMPAIGN, "geodesic Muon", "Muon"),
    ),
    "NorMuon against Muon": (
        (advanced_features.CAMPAIGN, "NorMuon", "Newton-Schulz"), (sphere_finalists.CAMPAIGN, "NorMuon", "Muon"),
        (scaling_ladder.CAMPAIGN, "NorMuon", "Muon"),
    ),
    "Kaon against Muon": (
        (orthogonality.CAMPAIGN, "Kaon", "Muon"), (sphere_finalists.CAMPAIGN, "Kaon", "Muon"),
    ),
    "Muon, K = 20 against 7": (
        (projection_frequency.CAMPAIGN, "Muon, K = 20", "Muon, K = 7"),
        (scaling_ladder.CAMPAIGN, "Muon, K = 20", "Muon"),
    ),
    "Adam, K = 20 against 7": (
        (projection_frequency.CAMPAIGN, "Adam, K = 20", "Adam, K = 7"),
        (scaling_ladder.CAMPAIGN, "Adam, K = 20", "Adam"),
    ),
    "control: Muon on other batches against Muon": (
        (orthogonality.CAMPAIGN, "Muon, other batches", "Muon"),
        (sphere_finalists.CAMPAIGN, "Muon, other batches", "Muon"),
        (scaling_ladder.CAMPAIGN, "Muon, other batches", "Muon"),
    ),
}  # fmt: skip

SCOPES: tuple[tuple[str, str | None], ...] = tuple(product(("rung-1", "rung-2"), (None, "English")))
"""Presets at which methods are tuned, and texts; None is the usual text"""

PAGE = "docs/reports.md#all-seeds-together"


@dataclass(frozen=True)
class Pooled:
    """A comparison at one size and on one text."""

    preset: str
    data: str
    parameters: int
    parts: tuple[tuple[Campaign, PairedDifference], ...]
    """each campaign's effect, on seeds that no earlier one has"""
    together: PairedDifference
    """that of all seeds"""

    @property
    def p_equal(self) -> float | None:
        """Return the p-value of the F-test that all campaigns have one effect; None for a single campaign."""
        effects = [effect for _, effect in self.parts]
        if len(effects) < 2 or not self.together.sd:
            return None
        freedoms = len(effects) - 1, self.together.n - len(effects)
        between = sum(effect.n * (effect.mean - self.together.mean) ** 2 for effect in effects) / freedoms[0]
        return float(stats.f.sf(between / self.together.sd**2, *freedoms))


def edges(campaign: Campaign, data: dict[str, Any], *methods: str) -> list[str]:
    """Return which of the rates that methods have chosen are at the edge of their grid, in words."""
    compared = (row for row in data["runs"] if row["stage"] == "comparison")
    found = rates_at_edges(campaign, *rates_of(campaign, compared))
    return list(dict.fromkeys(text for name in methods for text in found[name]))


def pooled(reports: Path, comparison: str) -> list[Pooled]:
    """Return a comparison wherever campaigns have made it with rates inside their grids.

    A seed counts once: with it runs begin and read alike.
    """
    found = []
    for preset, text in SCOPES:
        parts: list[tuple[Campaign, PairedDifference]] = []
        used: set[int] = set()
        name, parameters = "", 0
        for usual, first, second in COMPARISONS[comparison]:
            campaign = CampaignStudy(usual).at(preset, text).experiment
            data = final_data(campaign, reports)
            if data is None or edges(campaign, data, first, second):
                continue
            name, parameters = data["data"], data["parameters"]
            pairs = {seed: values for seed, values in _pairs(data, first, second).items() if seed not in used}
            used |= pairs.keys()
            if len(pairs) > 1:
                parts.append((campaign, paired_difference(*np.array([*pairs.values()]).T)))
        if parts:
            effects = [effect for _, effect in parts]
            found.append(Pooled(preset, name, parameters, tuple(parts), together(effects)))
    return found


def together(effects: list[PairedDifference]) -> PairedDifference:
    """Return the effect over all seeds of several campaigns, which may have tuned to different rates.

    Every seed counts the same. The standard deviation is that around each campaign's own mean.
    """
    n = sum(effect.n for effect in effects)
    freedom = n - len(effects)
    mean = sum(effect.n * effect.mean for effect in effects) / n
    sd = math.sqrt(sum((effect.n - 1) * effect.sd**2 for effect in effects) / freedom)
    half = special.stdtrit(freedom, 1 - LEVEL / 2) * sd / math.sqrt(n)
    p = 2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), freedom) if sd else float(mean == 0)
    return PairedDifference(mean, sd, n, mean - half, mean + half, float(p))


def pooled_table(reports: Path) -> str:
    """Return the table of all comparisons, with links relative to docs/."""
    lines = [
        "| comparison | where | in each campaign: effect (seeds) | p, if all are one | all seeds together | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for comparison in COMPARISONS:
        for one in pooled(reports, comparison):
            parts = "; ".join(
                f"[{effect.mean:+.4f}](../reports/{campaign.report_name}) ({effect.n})".replace("[-", "[−")
                for campaign, effect in one.parts
            )
            where = f"`{one.preset}`, {TEXTS.get(one.data, one.data)}"
            p = number(one.p_equal, 2)
            together = f"{interval_text(one.together)} | {one.together.n}"
            lines.append(f"| {comparison} | {where} | {parts} | {p} | {together} |")
    return "\n".join(lines) + "\n"


def places_table(reports: Path, comparisons: Sequence[str]) -> str:
    """Return a row per comparison and a column per size and text, below a sentence, with a link relative to README.

    Empty where none has been made in two places.
    """
    cells: dict[str, dict[str, str]] = {}
    sizes: dict[str, int] = {}
    for comparison in comparisons:
        for one in pooled(reports, comparison):
            place = f"{millions(one.parameters)} parameters, {one.data}"
            cells.setdefault(comparison, {})[place] = interval_text(one.together)
            sizes[place] = one.parameters
    if len(sizes) < 2:
        return ""
    places = sorted(sizes, key=lambda place: sizes[place])
    lines = [
        f"\nFirst minus second, over [all seeds]({PAGE}):\n",
        f"| | {' | '.join(places)} |",
        f"|---{'|---' * len(places)}|",
        *(f"| {name} | {' | '.join(row.get(place, '') for place in places)} |" for name, row in cells.items()),
    ]
    return "\n".join(lines) + "\n"


def soon(reports: Path) -> list[tuple[Campaign, dict[str, Any], MethodSummary]]:
    """Return how soon Muon reaches Adam's final loss wherever a campaign compares them inside their grids of rates."""
    found = []
    for preset, text in SCOPES:
        for usual, muon, adam in COMPARISONS["Muon against Adam"]:
            campaign = CampaignStudy(usual).at(preset, text).experiment
            data = final_data(campaign, reports)
            if data is not None and not edges(campaign, data, muon, adam):
                summaries = analyze(campaign, data).summaries
                found.append((campaign, data, next(one for one in summaries if one.method.name == muon)))
    return found


def soon_table(reports: Path) -> str:
    """Return the table of how soon Muon reaches Adam's final loss, with links relative to docs/."""
    lines = [
        "| campaign | where | share of Adam's steps | of its training time | Muon's speed relative to Adam's |",
        "|---|---|---|---|---|",
    ]
    for campaign, data, muon in soon(reports):
        where = f"`{data['preset']}`, {TEXTS.get(data['data'], data['data'])}"
        shared_gpu = data["jobs"] > 1 and not all(is_cpu(one["device"]) for one in data["environments"])
        times = [share_text(muon.time_share), number(muon.tokens_per_second_ratio, 2)]
        shares = " | ".join([share_text(muon.speedup), *(["runs shared a GPU", "–"] if shared_gpu else times)])
        lines.append(f"| [{campaign.name}](../reports/{campaign.report_name}) | {where} | {shares} |")
    return "\n".join(lines) + "\n"


def _pairs(data: dict[str, Any], first: str, second: str) -> dict[int, tuple[float, float]]:
    """Return the final losses of two methods on each comparison seed that both have ended on."""
    losses: dict[str, dict[int, float]] = {first: {}, second: {}}
    for row in data["runs"]:
        if row["stage"] == "comparison" and row["method"] in losses and row.get("final_val_loss") is not None:
            losses[row["method"]][row["seed"]] = row["final_val_loss"]
    both = sorted(losses[first].keys() & losses[second].keys())
    return {seed: (losses[first][seed], losses[second][seed]) for seed in both}
