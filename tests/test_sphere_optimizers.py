"""The campaign of all optimizers: who goes on, and that every grid is around the rate of equal angles."""

from pathlib import Path

import numpy as np
import pytest

from experiments.sphere_finalists import BEST_AT_TINY
from experiments.sphere_optimizers import AGAIN, CAMPAIGN, CANDIDATES, FINALISTS, finalists, follow_up
from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.execution.collect import read_data
from ngpt.foreign import is_class


def test_muon_and_the_best_seven_others_go_on() -> None:
    names = [name for name in CANDIDATES if name != "Muon"]
    losses = {name: np.array([2.0 + 0.01 * place, 2.02 + 0.01 * place]) for place, name in enumerate(names)}
    losses |= {"Muon": np.array([9.0, 9.0]), AGAIN.name: np.array([0.0, 0.0])}
    assert finalists(losses) == ["Muon", *names[: FINALISTS - 1]]
    losses[names[1]] = np.array([1.0, np.nan])
    assert finalists(losses) == ["Muon", names[0], *names[2:FINALISTS]], "one that diverged does not"
    assert follow_up(losses).startswith(f"By the rule in the claim, these advance: Muon; {names[0]}; ")
    assert follow_up({**losses, "Muon": np.array([np.nan, 9.0])}) == ""


def test_every_grid_is_around_its_middle() -> None:
    for method in CAMPAIGN.methods[:-1]:
        assert np.array(method.lrs) / CANDIDATES[method.name][1] == pytest.approx([0.25, 0.5, 1, 2, 4], rel=0.05)
    of_packages = [m for m in CAMPAIGN.methods if is_class(m.fields["optimizer"])]
    assert len(of_packages) == 13 and len(CAMPAIGN.methods) == 22


def test_the_finalists_are_those_of_the_published_data_with_their_rates() -> None:
    summaries = analyze(CAMPAIGN, read_data(CAMPAIGN, Path(__file__).parents[1] / "reports")).summaries
    assert [*BEST_AT_TINY] == finalists({summary.method.name: summary.comparison for summary in summaries})
    chosen = {summary.method.name: summary.chosen_lr for summary in summaries}
    assert BEST_AT_TINY == {name: chosen[name] for name in BEST_AT_TINY}
