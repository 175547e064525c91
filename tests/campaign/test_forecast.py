"""Forecasts: the band's arithmetic and coverage, and a campaign that is forecast before it is run."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.scaling_ladder import CAMPAIGN as LADDER
from ngpt.campaign.analysis.forecast import extrapolate
from ngpt.campaign.analysis.statistics import PairedDifference, sample_mean
from ngpt.campaign.definition import AtScale, Campaign
from ngpt.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import CAMPAIGN, SMALL, carry_out

# --- the band --------------------------------------------------------------------------------------------------------


def effect(values: list[float]) -> PairedDifference:
    found = sample_mean(np.array(values))
    assert found is not None
    return found


def test_two_sizes_are_extrapolated_by_the_line_through_them() -> None:
    """From -0.06 and -0.05, a factor of 4 apart, another factor of 4 leads to -0.04."""
    known = [effect([-0.06, -0.06, -0.06]), effect([-0.05, -0.05, -0.05])]
    band = extrapolate([100, 400], known, 1600, 3)
    assert (band.mean, band.low, band.high) == pytest.approx((-0.04, -0.04, -0.04))


def test_one_size_is_carried_over_with_both_noises() -> None:
    """Variance 1 / 4 for the known mean of 4 seeds and 1 / 2 for that of 2, from one estimate with 3 freedoms."""
    from scipy import stats

    values = np.array([-1.0, 1.0, -1.0, 1.0]) * math.sqrt(0.75)
    band = extrapolate([100], [effect(list(values))], 1000, 2)
    assert band.mean == pytest.approx(0.0)
    assert band.high == pytest.approx(stats.t.ppf(0.975, 3) * math.sqrt(0.75))


@pytest.mark.parametrize("seeds_known", [(10,), (5,), (8, 5)])
def test_the_band_holds_the_outcome_as_often_as_it_says(seeds_known: tuple[int, ...]) -> None:
    draw, hits, trials = np.random.default_rng(0), 0, 4000
    sizes, size, seeds = [97_280, 331_776][: len(seeds_known)], 790_528, 5
    slope = 0.01 if len(sizes) > 1 else 0.0
    truth = [-0.06 + slope * math.log(s / sizes[0]) for s in (*sizes, size)]
    for _ in range(trials):
        known = [effect(list(draw.normal(truth[i], 0.02, size=n))) for i, n in enumerate(seeds_known)]
        band = extrapolate(sizes, known, size, seeds)
        hits += band.low <= draw.normal(truth[-1], 0.02, size=seeds).mean() <= band.high
    assert 0.935 < hits / trials < 0.965


@pytest.mark.parametrize("sizes, seeds", [([100, 100], 5), ([100], 5), ([0, 100], 5), ([100, 200], 0)])
def test_what_forecasts_nothing_is_refused(sizes: list[float], seeds: int) -> None:
    with pytest.raises(ValueError, match="a forecast needs"):
        extrapolate(sizes, [effect([1.0, 2.0])] * 2, 1000, seeds)


# --- the campaign ----------------------------------------------------------------------------------------------------


def mini_ladder() -> Campaign:
    """Three presets that are one small model here, the third and fourth wider."""
    methods = tuple(dataclasses.replace(method, lrs=method.lrs[1:2]) for method in CAMPAIGN.methods)
    lrs, fields = {method.name: method.lrs for method in methods}, {**SMALL, "steps": 8, "compile": False}
    return dataclasses.replace(
        CAMPAIGN, name="mini_ladder", methods=methods, fields=fields, comparison_seeds=3,
        rule=dataclasses.replace(CAMPAIGN.rule, seeds=2),
        at_scale={
            "rung-1": AtScale(lrs=lrs, fields={**fields, "n_embd": 32}, comparison_seeds=2),
            "rung-2": AtScale(lrs=lrs, fields={**fields, "n_embd": 48}, comparison_seeds=2,
                              forecast_from=("tiny", "rung-1")),
        },
    )  # fmt: skip


@pytest.mark.drawn
def test_a_rung_is_forecast_before_its_first_run_and_the_report_shows_what_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    campaign = mini_ladder()
    place = ["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out")]
    here = [*place, "--preset", "rung-2"]
    with pytest.raises(InputError, match="no forecast yet; write it first, by the same command with --forecast"):
        carry_out(campaign, here)
    with pytest.raises(InputError, match="mini_ladder.json"):  # no results below
        carry_out(campaign, [*here, "--forecast"])
    assert carry_out(campaign, place) == 0 and carry_out(campaign, [*place, "--preset", "rung-1"]) == 0
    with pytest.raises(InputError, match="--forecast has no effect, since none is stated for rung-1"):
        carry_out(campaign, [*place, "--preset", "rung-1", "--forecast"])
    capsys.readouterr()
    assert carry_out(campaign, [*here, "--dry-run"]) == 0 and carry_out(campaign, [*here, "--forecast"]) == 0
    path = tmp_path / "out" / "reports" / "forecasts" / "mini_ladder_at_rung_2.json"
    assert str(path) in capsys.readouterr().out
    written = json.loads(path.read_text())
    (forecast,) = written["contrasts"].values()
    assert [source["preset"] for source in written["from"]] == ["tiny", "rung-1"] and len(forecast["known"]) == 2
    sizes = np.log([*(source["size"] for source in written["from"]), written["size"]])
    slope = (forecast["known"][1]["mean"] - forecast["known"][0]["mean"]) / (sizes[1] - sizes[0])
    expected = forecast["known"][1]["mean"] + slope * (sizes[2] - sizes[1])
    assert forecast["forecast"]["mean"] == pytest.approx(expected)
    with pytest.raises(InputError, match="this forecast is written already"):
        carry_out(campaign, [*here, "--forecast"])

    changed = dataclasses.replace(campaign, at_scale={**campaign.at_scale, "rung-2": dataclasses.replace(
        campaign.at_scale["rung-2"], lrs={"Muon": (0.02,), "Adam": (0.01,)})})  # fmt: skip
    with pytest.raises(InputError, match="the forecast of other methods, rates or seeds"):
        carry_out(changed, here)
    assert carry_out(campaign, here) == 0
    text = (tmp_path / "out" / "reports" / "MINI_LADDER_AT_RUNG_2_REPORT.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| Muon against Adam | ") and line.count("[") == 2]
    assert row.endswith("| yes |") or row.endswith("| **no** |")
    assert re.search(r"\b[01] of \d forecasts came true", text)
    assert (tmp_path / "out" / "reports" / "figures" / "mini_ladder_at_rung_2_forecast.png").stat().st_size > 5_000
    path.unlink()
    with pytest.raises(InputError, match="the first run has begun, so that it is too late for a forecast"):
        carry_out(campaign, [*here, "--forecast"])


def test_the_ladder_is_tuned_below_and_carries_its_rates_to_the_top() -> None:
    assert LADDER.at("rung-3").forecast_from == ("rung-1", "rung-2")
    assert LADDER.at("rung-2").forecast_from == ("rung-1",) and not LADDER.at("rung-4").forecast_from
    assert all(len(method.lrs) == 1 for method in LADDER.at("rung-3").methods)
    with pytest.raises(ValueError, match="forecast from a preset that is not stated"):
        dataclasses.replace(LADDER, at_scale={"rung-3": LADDER.at_scale["rung-3"]}, on_texts={})
