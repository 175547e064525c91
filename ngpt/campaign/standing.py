"""Show a campaign while it runs: the runs that have ended, rates that lead, effects so far; no answers. No torch."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Row, analyze
from ngpt.campaign.definition import Campaign, rates_text
from ngpt.campaign.definition.plan import ENDED
from ngpt.campaign.report.words import effect_of


def standing(campaign: Campaign, data: dict[str, Any]) -> list[str]:
    """Return what to show of a campaign that is not finished, in lines.

    The runs that have ended, by stage; then the rates that lead until all are chosen, and the effects from then on.

    data: as collected; with `planned_runs` alone beside the runs while there are none but those of pre-training.
    """
    rows: list[Row] = data["runs"]
    counts = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row["status"] for row in rows if row["stage"] == stage]
        counts.append(f"{stage} {_ended(mine)} of {len(mine)}")
    ended = _ended(row["status"] for row in rows)
    failed = sum(row["status"] == "failed" for row in rows)
    note = f"; {failed} failed" if failed else ""
    head = f"{campaign.name}: {ended} of {data['planned_runs']} runs have ended ({', '.join(counts)}{note})"
    if any(row["stage"] == "comparison" for row in rows):
        return [head, *_not_final(_effects(campaign, data))]
    return [head, *_not_final(_leaders(campaign, rows))]


def _effects(campaign: Campaign, data: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return each contrast with its effect so far and its seeds, below a heading."""
    found = [("contrast", "effect so far [95% interval]", "seeds so far")]
    for answer in analyze(campaign, data).answers:
        unit = "" if answer.verdict.effect is None else f" {answer.contrast.rule.unit}"
        seeds = f"{answer.seeds} of {data['comparison_seeds']}"
        found.append((answer.contrast.name, effect_of(answer) + unit, seeds))
    return found


def _leaders(campaign: Campaign, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return the rates of lowest mean loss of each method, below a heading; of the stage of tuning it has come to.

    As in the choice to come, a rate at which a run has no result is out; but only seeds count on which all rates of the
    method have ended, so that no rate leads by an easier seed.
    """
    metric, unit = campaign.rule.metric, campaign.rule.unit
    found = [("method", f"leads so far, by mean {metric}", "seeds so far")]
    for method in campaign.methods:
        tuned = [row for row in rows if row["method"] == method.name and row["stage"] != "pretraining"]
        chosen = {row["lr"] for row in tuned if row["stage"] == "auxiliary"}
        mine = [row for row in tuned if row["lr"] in chosen or not chosen]
        seeds = sorted({row["seed"] for row in mine})
        whole = [seed for seed in seeds if all(row["status"] in ENDED for row in mine if row["seed"] == seed)]
        losses: dict[str, list[float]] = {}
        for row in mine:
            if row["seed"] in whole:
                rates = rates_text(row["lr"], row["aux_lr"] if campaign.aux_lrs else None)
                losses.setdefault(rates, []).append(row.get(metric, math.nan))
        means = {rates: float(np.mean(values)) for rates, values in losses.items()}
        lead = min((rates for rates in means if math.isfinite(means[rates])), key=means.__getitem__, default=None)
        if mine:
            text = "–" if lead is None else f"{lead}: {means[lead]:.4f} {unit}"
            found.append((method.name, text, f"{len(whole)} of {len(seeds)}"))
    return found


def _ended(states: Iterable[str]) -> int:
    return sum(state in ENDED for state in states)


def _not_final(cells: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return rows of cells as an aligned table that is marked as not final; nothing if there is only a heading."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return ["not final:", *lines] if len(lines) > 1 else []
