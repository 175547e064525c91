"""Forecasts of a campaign's effects at one preset from its results at smaller ones, written before its first run.

No torch.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.analysis.forecast import extrapolate
from ngpt.campaign.definition import Campaign
from ngpt.cost import hidden_entries
from ngpt.errors import require
from ngpt.files import read_json, write_json

Known = tuple[Campaign, dict[str, Any]]
"""the campaign at a preset, and its collected data"""


def forecast_path(reports: Path, campaign: Campaign) -> Path:
    """Return the path of the forecast for a campaign at its preset."""
    return reports / "forecasts" / f"{campaign.name}.json"


def size_of(campaign: Campaign) -> int:
    """Return the number of entries of the hidden matrices at a campaign's preset."""
    return hidden_entries(campaign.configure(campaign.arms()[0], 0, {}, campaign.preset).model)


def forecast(campaign: Campaign, known: Sequence[Known], seeds: int) -> dict[str, Any]:
    """Return the forecast of every contrast of a campaign at its preset, as JSON.

    known: results at other presets, each complete. seeds: on which the forecast effects will be measured. Raises
    InputError for results that are not complete or that lack a contrast.
    """
    sizes = [size_of(one) for one, _ in known]
    found: dict[str, list[Any]] = {contrast.name: [] for contrast in campaign.contrasts() if not contrast.control}
    sources = []
    for (one, data), size in zip(known, sizes, strict=True):
        analysis = analyze(one, data)
        require(analysis.complete, f"the results at {one.preset} are not complete, so that they forecast nothing")
        effects = {answer.contrast.name: answer.verdict.effect for answer in analysis.answers}
        for name, mine in found.items():
            require(effects.get(name) is not None, f"no result for '{name}' at {one.preset}")
            mine.append(effects[name])
        sources.append({"preset": one.preset, "size": size, "definition": one.digest, "dates": data["dates"],
                        "code_digest": data["code_digest"], "data_digest": data["data_digest"]})  # fmt: skip
    size = size_of(campaign)
    return {
        "campaign": campaign.name, "definition": campaign.digest, "preset": campaign.preset, "size": size,
        "seeds": seeds, "written": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "from": sources,
        "contrasts": {
            name: {"known": [{"mean": e.mean, "low": e.t_low, "high": e.t_high, "seeds": e.n} for e in effects],
                   "forecast": asdict(extrapolate(sizes, effects, size, seeds))}
            for name, effects in found.items()
        },
    }  # fmt: skip


def write_forecast(campaign: Campaign, known: Sequence[Known], seeds: int, reports: Path) -> Path:
    """Write the forecast for a campaign at its preset. Raises InputError if there is one already."""
    path = forecast_path(reports, campaign)
    require(not path.exists(), f"{path}: this forecast is written already")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, forecast(campaign, known, seeds))
    return path


def read_forecast(campaign: Campaign, seeds: int, reports: Path) -> dict[str, Any]:
    """Read the forecast that a campaign needs before its first run.

    Raises InputError if there is none, or if it is that of other methods, rates or seeds.
    """
    path = forecast_path(reports, campaign)
    require(path.exists(), f"{path}: no forecast yet; write it first, by the same command with --forecast")
    found = read_json(path)
    same = (found.get("definition"), found.get("seeds")) == (campaign.digest, seeds)
    require(same, f"{path}: the forecast of other methods, rates or seeds; remove it if no run has begun")
    return found
