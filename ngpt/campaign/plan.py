"""A campaign's runs: arms x seeds, in the order in which they are carried out. No torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ngpt.campaign.definition import Arm, Campaign, comparison_seeds, tuning_seeds
from ngpt.campaign.statistics import Array
from ngpt.config import RunConfig
from ngpt.errors import InputError
from ngpt.identity import run_id

Stage = Literal["tuning", "comparison"]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a campaign."""

    stage: Stage
    arm: Arm
    seed: int
    config: RunConfig
    run_id: str

    @property
    def name(self) -> str:
        """For progress lines."""
        return f"{self.arm.name}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A campaign on given data at a given size."""

    campaign: Campaign
    preset: str
    overrides: Mapping[str, Any]
    """configuration fields given on the command line, for every arm"""
    tuning_seeds: int
    comparison_seeds: int
    data_digest: str

    def tuning_runs(self) -> list[PlannedRun]:
        """Every arm on every tuning seed; seed by seed, so that a campaign cut short is balanced."""
        return self._runs("tuning", self.campaign.arms(), tuning_seeds(self.tuning_seeds))

    def comparison_runs(self, chosen: Mapping[str, Arm]) -> list[PlannedRun]:
        """Each method's chosen arm on the comparison seeds."""
        return self._runs("comparison", list(chosen.values()), comparison_seeds(self.comparison_seeds))

    def count(self) -> int:
        """Runs in both stages."""
        methods = self.campaign.methods
        return self.tuning_seeds * len(self.campaign.arms()) + self.comparison_seeds * len(methods)

    def _runs(self, stage: Stage, arms: list[Arm], seeds: Iterable[int]) -> list[PlannedRun]:
        runs = []
        for seed in seeds:
            for arm in arms:
                config = self.campaign.configure(arm, seed, self.overrides, self.preset)
                identity = run_id(config, self.data_digest)
                runs.append(PlannedRun(stage=stage, arm=arm, seed=seed, config=config, run_id=identity))
        _refuse_equal_arms(runs)
        return runs


def _refuse_equal_arms(runs: list[PlannedRun]) -> None:
    """C11: two arms of one configuration would be compared with themselves."""
    seen: dict[str, PlannedRun] = {}
    for run in runs:
        if run.run_id in seen:
            raise InputError(f"two arms are the same configuration: '{seen[run.run_id].arm.name}' and '{run.arm.name}'")
        seen[run.run_id] = run


def choose_rates(campaign: Campaign, losses: Mapping[str, Array]) -> dict[str, Arm]:
    """For each method the arm of lowest mean tuning loss among those where every seed finished.

    losses: (seeds, rates) by method, not finite where a run has no result. A method without any complete arm is
    left out.
    """
    chosen = {}
    for method in campaign.methods:
        arms = [arm for arm in campaign.arms() if arm.method == method.name]
        mean = losses[method.name].mean(axis=0)
        if np.isfinite(mean).any():
            chosen[method.name] = arms[int(np.nanargmin(np.where(np.isfinite(mean), mean, np.nan)))]
    return chosen


def estimated_operations(config: RunConfig, vocab_size: int) -> float:
    """Floating-point operations of a run's matrix products, 6 a parameter and token; rough, for `--dry-run`."""
    model, train = config.model, config.train
    mlp = 3 if model.arch != "gated-literal" else 2
    parameters = model.n_layer * model.n_embd * (4 * model.n_embd + mlp * model.mlp_hidden)
    return 6.0 * (parameters + vocab_size * model.n_embd) * train.steps * train.batch_size * model.seq_len
