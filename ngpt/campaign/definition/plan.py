"""The runs of a campaign: arms x seeds, in the order in which they are carried out. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from ngpt.campaign.definition.campaign import Arm, Campaign, Method
from ngpt.config import DataConfig, RunConfig
from ngpt.cost import pass_operations, polar_operations
from ngpt.data.corpus import load_corpus
from ngpt.errors import InputError, require
from ngpt.identity import run_id
from ngpt.sources import Stamp, changed_file

ASSUMED_FLOPS = 1e10
"""floating-point operations per second of one CPU core, for `--dry-run` before any run has finished"""

Stage = Literal["pretraining", "tuning", "auxiliary", "comparison"]
"""tuning: of the hidden rate; auxiliary: of the auxiliary rate"""


FINISHED = ("done", "diverged")
"""states of a run that has ended by itself"""

ENDED = (*FINISHED, "failed")
"""states of a run that has ended"""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of an experiment."""

    stage: Stage
    arm: Arm
    seed: int
    config: RunConfig
    run_id: str

    @classmethod
    def of(
        cls, stage: Stage, method: str, seed: int, config: RunConfig, *, aux_lr: float | None = None, **more: Any
    ) -> Self:  # fmt: skip
        """Return a run whose data are those that `config` names, with `more` fields of a subclass.

        aux_lr: as in `Arm`, for the run's name.
        """
        arm = Arm(method=method, lr=config.optim.lr, aux_lr=aux_lr, fields={})
        identity = run_id(config, digest_of(config.data))
        return cls(stage=stage, arm=arm, seed=seed, config=config, run_id=identity, **more)

    @property
    def name(self) -> str:
        """Name shown in progress lines."""
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def labels(self) -> dict[str, Any]:
        """Labels that say in the collected data what the run is for."""
        rates = {"lr": self.arm.lr, "aux_lr": self.config.optim.resolved_aux_lr}
        return {"stage": self.stage, "method": self.arm.method, **rates, "seed": self.seed}

    @property
    def key(self) -> str:
        """Key of the run's command in the collected data."""
        return key_of(self.labels)


def key_of(row: Mapping[str, Any]) -> str:
    """Return the key of a collected run's command; data from before auxiliary rates were tuned have none in it."""
    return "|".join(str(row[name]) for name in ("method", "lr", "aux_lr", "seed") if name in row)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, as collected data know it."""

    row: Mapping[str, Any]
    environment: Mapping[str, Any]
    """device, threads, commit, versions and concurrent runs with which it was carried out"""
    scale: Mapping[str, Any]
    """parameters and validation tokens; of a run known from data, those of its campaign's usual model"""
    dates: Sequence[str]
    """its own if it was carried out here; otherwise those of all runs collected with it"""


@dataclass(frozen=True, kw_only=True)
class AnyPlan(ABC):
    """The runs of an experiment on given data at a given model size."""

    preset: str
    overrides: Mapping[str, Any]
    """configuration fields from the command line, for every run"""
    data_digest: str
    out: Path = Path("runs")
    """folder of run folders, which also hold the weights that runs start from"""
    known: Mapping[str, FinishedRun] = field(default_factory=dict)
    """runs that were carried out elsewhere and are not repeated, by run id"""

    @abstractmethod
    def count(self) -> int:
        """Return the number of runs in all stages."""


@dataclass(frozen=True, kw_only=True)
class Plan(AnyPlan):
    """The runs of a campaign."""

    campaign: Campaign
    tuning_seeds: int
    comparison_seeds: int
    forecast: Mapping[str, Any] | None = None
    """of its results, written before its first run, where one is stated"""

    def _seeds(self, stage: Stage) -> range:
        """Return the seeds of a stage: none that compares also chooses a rate, and no two numbers of them share one.

        Both rates are chosen on the same seeds.

        Repeating an undecided comparison with more seeds is therefore a new comparison.
        """
        n = self.comparison_seeds
        return range(10_000 * n, 10_000 * n + n) if stage == "comparison" else range(self.tuning_seeds)

    def pretraining_runs(self, stage: Stage) -> list[PlannedRun]:
        """Return the runs whose weights those of `stage` start from, each once; empty if all start from scratch."""
        methods = [method for method in self.campaign.methods if method.pretraining is not None]
        sources = [self._source(method, seed) for seed in self._seeds(stage) for method in methods]
        return list({run.run_id: run for run in sources}.values())

    def _source(self, method: Method, seed: int) -> PlannedRun:
        config = self.campaign.configure_pretraining(method, seed, self.preset)
        return PlannedRun.of("pretraining", f"pre-training with {config.optim.optimizer}", seed, config)

    def tuning_runs(self) -> list[PlannedRun]:
        """Return every tuned arm on every tuning seed; seed by seed, so that an interrupted campaign is balanced."""
        return self._runs("tuning", self.campaign.tuned_arms())

    def auxiliary_runs(self, chosen: Mapping[str, Arm]) -> list[PlannedRun]:
        """Return each method's chosen arm at the auxiliary rates that `tuning_runs` leaves out, on the same seeds."""
        done = {run.run_id for run in self.tuning_runs()}
        return [run for run in self._runs("auxiliary", self.campaign.auxiliary_arms(chosen)) if run.run_id not in done]

    def comparison_runs(self, chosen: Mapping[str, Arm]) -> list[PlannedRun]:
        """Return each method's chosen arm on the comparison seeds."""
        return self._runs("comparison", list(chosen.values()))

    def auxiliary_rates(self, method: Method) -> int:
        """Return at how many auxiliary rates a method has still to run once its hidden rate is tuned."""
        return 0 if method.at_rates_of else max(0, len(self.campaign.aux_lrs) - (len(method.lrs) > 1))

    def count(self) -> int:
        """Return the number of runs in all stages."""
        methods = self.campaign.methods
        sources = len(self.pretraining_runs("tuning")) + len(self.pretraining_runs("comparison"))
        tuning = len(self.campaign.tuned_arms()) + sum(self.auxiliary_rates(method) for method in methods)
        return self.tuning_seeds * tuning + self.comparison_seeds * len(methods) + sources

    def _runs(self, stage: Stage, arms: list[Arm]) -> list[PlannedRun]:
        runs: list[PlannedRun] = []
        seen: dict[str, Arm] = {}
        methods = {method.name: method for method in self.campaign.methods}
        for seed in self._seeds(stage):
            for arm in arms:
                overrides = dict(self.overrides)
                if methods[arm.method].pretraining is not None:
                    overrides["init_from"] = str(self.out / self._source(methods[arm.method], seed).run_id)
                config = self.campaign.configure(arm, seed, overrides, self.preset)
                identity = run_id(config, self.data_digest)
                runs.append(PlannedRun(stage=stage, arm=arm, seed=seed, config=config, run_id=identity))
                other = seen.setdefault(identity, arm)  # an arm would be compared with itself
                require(other is arm, f"two arms are the same configuration: '{other.name}' and '{arm.name}'")
        return runs


_planned: dict[DataConfig, tuple[str, tuple[Stamp, ...], list[str]]] = {}
"""The data of this process's campaign: digests, the files as they were then, and what was found."""


def identify(data: DataConfig) -> str:
    """Return the digest of the corpus that `data` names, and remember its files as they are now."""
    corpus = load_corpus(data)
    _planned[data] = corpus.digest, corpus.files, corpus.described
    return corpus.digest


def digest_of(data: DataConfig) -> str:
    """Return the digest of the corpus that `data` names, as it was when first asked for."""
    return _planned[data][0] if data in _planned else identify(data)


def described(data: DataConfig) -> list[str]:
    """Return what `data` was found to be when first asked for, in lines for people."""
    digest_of(data)
    return _planned[data][2]


def change_since_planned(data: DataConfig) -> str | None:
    """Return in one line which file of `data` is no longer as it was when identified; None if none is."""
    if data not in _planned:
        return None
    try:
        changed = changed_file(data.data, _planned[data][1])
    except InputError as error:
        return f"the data have changed since the campaign began: {error}"
    return None if changed is None else f"{changed}: changed since the campaign began; start it again"


def estimated_seconds(config: RunConfig) -> float:
    """Estimate the time of a run from its operations; rough, for `--dry-run`."""
    step = pass_operations(config, load_corpus(config.data).vocab_size) + polar_operations(config)
    return config.train.steps * step / ASSUMED_FLOPS
