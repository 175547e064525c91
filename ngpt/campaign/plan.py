"""A campaign's runs: arms x seeds, in the order in which they are carried out. No torch."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ngpt.campaign.definition import Arm, Campaign, Method, comparison_seeds, tuning_seeds
from ngpt.campaign.statistics import Array
from ngpt.config import DataConfig, RunConfig
from ngpt.data.corpus import load_corpus
from ngpt.errors import InputError
from ngpt.identity import run_id

Stage = Literal["pretraining", "tuning", "comparison"]


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
    out: Path = Path("runs")
    """folder of run folders, where a run finds the weights it starts from"""

    def pretraining_runs(self, stage: Stage) -> list[PlannedRun]:
        """The runs from whose weights those of `stage` start, each once; empty where all start from scratch."""
        found: dict[str, PlannedRun] = {}
        for seed in tuning_seeds(self.tuning_seeds) if stage == "tuning" else comparison_seeds(self.comparison_seeds):
            for method in self.campaign.methods:
                if method.pretraining is not None:
                    run = self._source(method, seed)
                    found.setdefault(run.run_id, run)
        return list(found.values())

    def _source(self, method: Method, seed: int) -> PlannedRun:
        config = self.campaign.configure_pretraining(method, seed, self.preset)
        arm = Arm(method=f"pre-training with {config.optim.optimizer}", lr=config.optim.lr, fields={})
        identity = run_id(config, digest_of(config.data))
        return PlannedRun(stage="pretraining", arm=arm, seed=seed, config=config, run_id=identity)

    def tuning_runs(self) -> list[PlannedRun]:
        """Every arm with a choice of rates on every tuning seed; seed by seed, so that one cut short is balanced."""
        return self._runs("tuning", self.campaign.tuned_arms(), tuning_seeds(self.tuning_seeds))

    def comparison_runs(self, chosen: Mapping[str, Arm]) -> list[PlannedRun]:
        """Each method's chosen arm on the comparison seeds."""
        return self._runs("comparison", list(chosen.values()), comparison_seeds(self.comparison_seeds))

    def count(self) -> int:
        """Runs in both stages."""
        methods = self.campaign.methods
        sources = len(self.pretraining_runs("tuning")) + len(self.pretraining_runs("comparison"))
        return self.tuning_seeds * len(self.campaign.tuned_arms()) + self.comparison_seeds * len(methods) + sources

    def _runs(self, stage: Stage, arms: list[Arm], seeds: Iterable[int]) -> list[PlannedRun]:
        runs = []
        methods = {method.name: method for method in self.campaign.methods}
        for seed in seeds:
            for arm in arms:
                overrides = dict(self.overrides)
                if methods[arm.method].pretraining is not None:
                    overrides["init_from"] = str(self.out / self._source(methods[arm.method], seed).run_id)
                config = self.campaign.configure(arm, seed, overrides, self.preset)
                identity = run_id(config, self.data_digest)
                runs.append(PlannedRun(stage=stage, arm=arm, seed=seed, config=config, run_id=identity))
        _refuse_equal_arms(runs)
        return runs


@functools.cache
def digest_of(data: DataConfig) -> str:
    """Digest of the corpus that `data` names."""
    return load_corpus(data).digest


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
    left out; one of a single rate keeps it.
    """
    chosen = {}
    for method in campaign.methods:
        arms = [arm for arm in campaign.arms() if arm.method == method.name]
        if len(arms) == 1:
            chosen[method.name] = arms[0]
            continue
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
