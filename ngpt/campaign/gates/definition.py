"""What a file of gates states, before any run: two optimizers, the tasks both carry out, the targets. No torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ngpt.config import RunConfig
from ngpt.presets import resolve

TaskName = Literal["speed", "overfit", "stability", "race", "automata"]
OptimizerName = Literal["Muon", "AdamW"]

LOWEST_SEEDS = 3
"""Seeds without which a race says nothing."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What both optimizers do, with the same fields, data and seeds."""

    fields: Mapping[str, Any]
    """configuration fields besides those of `Gates.fields` and of the optimizer"""
    seeds: int = 1


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What Muon has to reach."""

    orthogonality_error: float
    """G1: at most, of the hidden matrices' updates (`ngpt.polar.orthogonality_error`), median over a run"""
    lr_first: float
    """G2: rate of the hidden matrices in the first step"""
    lr_last: float
    """G2: where its cosine ends"""
    overfit_bpb: float
    """G3: below, bits per byte on the samples trained on"""
    steps_per_second: float
    """G4: at least, with all cores"""
    stable_steps: int
    """G5: without a number that is not finite"""
    fewer_steps: float
    """G6: at least, as a share of AdamW's steps, to AdamW's final loss: the low end of the interval over seeds"""
    below_guess: float
    """G7: at least, nats per token that validation ends below the even guess over the vocabulary"""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The gates G1 to G7."""

    name: str
    """file name of the experiment, the runner and the report's data"""
    title: str
    question: str
    claim: str
    """how each gate is measured and why so; markdown"""
    optimizers: Mapping[OptimizerName, Mapping[str, Any]]
    """configuration fields of each, Muon's number of iterations excepted"""
    tasks: Mapping[TaskName, Task]
    targets: Targets
    ns_steps: int
    """Muon's iterations"""
    ns_steps_if_slow: int
    """and those it drops to if it is slower than `targets.steps_per_second`"""
    preset: str = "trinity"
    fields: Mapping[str, Any] = field(default_factory=dict)
    """configuration fields that all runs share"""
    reading: str = ""
    """what the figures say, written when they were there; a paragraph of markdown without numbers"""

    @property
    def digest(self) -> str:
        """Of all that decides a result; not of the words."""
        tasks = [(name, sorted(task.fields.items()), task.seeds) for name, task in sorted(self.tasks.items())]
        optimizers = [(name, sorted(fields.items())) for name, fields in sorted(self.optimizers.items())]
        parts = (tasks, optimizers, self.targets, self.ns_steps, self.ns_steps_if_slow, sorted(self.fields.items()))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def report_name(self) -> str:
        """`INTEGRATION_GATES_REPORT.md` for integration_gates."""
        return f"{self.name.upper()}_REPORT.md"

    def configure(
        self,
        task: TaskName,
        optimizer: OptimizerName,
        seed: int,
        *,
        ns_steps: int,
        overrides: Mapping[str, Any],
        preset: str,
    ) -> RunConfig:
        """The configuration of one run. The command line's `overrides` give way to a task's own data."""
        iterations = {"ns_steps": ns_steps} if optimizer == "Muon" else {}
        own = self.tasks[task].fields
        fields = {**self.fields, **overrides, **own, **self.optimizers[optimizer], **iterations}
        if "data" in own and "tokenizer" not in own:
            fields.pop("tokenizer", None)
        return resolve(preset, seed=seed, **fields)

    def iterations_at(self, steps_per_second: float) -> int:
        """Muon's iterations on a machine on which it makes so many steps a second with `ns_steps` of them."""
        return self.ns_steps if steps_per_second >= self.targets.steps_per_second else self.ns_steps_if_slow
