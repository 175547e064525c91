"""Gates as an experiment file states them: two optimizers, the tasks both carry out, the targets. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ngpt.campaign.definition.experiment import Experiment
from ngpt.config import RunConfig
from ngpt.presets import resolve

TaskName = Literal["speed", "overfit", "stability", "race", "automata"]
OptimizerName = Literal["Muon", "AdamW"]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Targets that Muon has to reach."""

    orthogonality_error: float
    """G1: maximum, median over a run, for updates of the hidden matrices (`ngpt.polar.orthogonality_error`)"""
    lr_first: float
    """G2: learning rate of the hidden matrices in the first step"""
    lr_last: float
    """G2: learning rate at the end of the cosine"""
    overfit_bpb: float
    """G3: upper bound, bits per byte on the training samples"""
    steps_per_second: float
    """G4: minimum, with all cores"""
    stable_steps: int
    """G5: steps in which every loss and gradient norm is finite"""
    fewer_steps: float
    """G6: minimum share of AdamW's steps saved on the way to AdamW's final loss: low end of the interval over seeds"""
    below_guess: float
    """G7: minimum, nats per token by which the final validation loss is below a uniform guess over the vocabulary"""


@dataclass(frozen=True, kw_only=True)
class Gates(Experiment):
    """The gates G1 to G7; `claim` says how each is measured and why."""

    optimizers: Mapping[OptimizerName, Mapping[str, Any]]
    """configuration fields of each, except Muon's number of iterations"""
    tasks: Mapping[TaskName, Mapping[str, Any]]
    """configuration fields of each task for both optimizers, besides `fields`"""
    seeds: Mapping[TaskName, int]
    """seeds of the tasks that have more than one"""
    targets: Targets
    ns_steps: int
    """Muon's iterations"""
    ns_steps_if_slow: int
    """Muon's iterations if it is slower than `targets.steps_per_second` with `ns_steps`"""
    preset: str = "trinity"

    @property
    def _identity(self) -> tuple[Any, ...]:
        tasks = [(name, sorted(own.items()), self.seeds.get(name, 1)) for name, own in sorted(self.tasks.items())]
        optimizers = [(name, sorted(fields.items())) for name, fields in sorted(self.optimizers.items())]
        return (tasks, optimizers, self.targets, self.ns_steps, self.ns_steps_if_slow, sorted(self.fields.items()))

    def configure(
        self, task: TaskName, optimizer: OptimizerName, seed: int, *, ns_steps: int, overrides: Mapping[str, Any],
        preset: str,
    ) -> RunConfig:  # fmt: skip
        """Return the configuration of one run. A task's own data take precedence over `overrides`."""
        iterations = {"ns_steps": ns_steps} if optimizer == "Muon" else {}
        own = self.tasks[task]
        fields = {**self.fields, **overrides, **own, **self.optimizers[optimizer], **iterations}
        if "data" in own and "tokenizer" not in own:
            fields.pop("tokenizer", None)
        return resolve(preset, seed=seed, **fields)

    def iterations_at(self, steps_per_second: float | None) -> int:
        """Return Muon's iterations where it makes this many steps per second with `ns_steps` of them; None: unknown."""
        slow = steps_per_second is not None and steps_per_second < self.targets.steps_per_second
        return self.ns_steps_if_slow if slow else self.ns_steps
