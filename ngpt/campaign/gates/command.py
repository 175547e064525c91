"""The gates as the engine carries them out: speed first, alone on the machine, then all else. No torch."""

# ruff: noqa: D102 (methods without a docstring inherit that of `Study`)

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from ngpt.campaign.definition.plan import AnyPlan, PlannedRun, estimated_seconds, identify
from ngpt.campaign.engine import Batch, Study
from ngpt.campaign.execution.collect import Metrics
from ngpt.campaign.execution.execute import Outcome, finished_record
from ngpt.campaign.execution.options import common_parser, cost_of_a_run, overrides_of
from ngpt.campaign.gates.definition import Gates, OptimizerName, TaskName
from ngpt.campaign.gates.judge import BOTH, judge_gates, overall
from ngpt.campaign.gates.report import write_gates_report
from ngpt.campaign.report.index import Listed
from ngpt.command import Parser
from ngpt.data.corpus import load_corpus
from ngpt.errors import require
from ngpt.machine import core_count
from ngpt.training.record import RunRecord, read_metrics

LONGEST_FIRST: tuple[TaskName, ...] = ("stability", "race", "overfit", "automata")
"""tasks after the speed, in an order that keeps all cores busy to the end"""

ALONE = {"jobs": 1, "threads": core_count()}
"""settings of runs whose speed is measured: nothing else on the machine, and all its cores"""


@dataclass(frozen=True, kw_only=True)
class GateRun(PlannedRun):
    """A planned run and what it is for. Two tasks may ask for the same run."""

    task: TaskName
    optimizer: OptimizerName

    @property
    def labels(self) -> dict[str, Any]:
        optim, what = self.config.optim, {"task": self.task, "optimizer": self.optimizer, "seed": self.seed}
        return {**what, "lr": optim.lr, "ns_steps": optim.ns_steps}

    @property
    def key(self) -> str:
        return self.run_id


@dataclass(frozen=True, kw_only=True)
class GatePlan(AnyPlan):
    """The runs of the gates."""

    gates: Gates
    race_seeds: int

    def runs(
        self, tasks: Sequence[TaskName], ns_steps: int, optimizers: Sequence[OptimizerName] = BOTH
    ) -> list[GateRun]:
        """Return the runs of some tasks, the optimizers in turn."""
        settings: dict[str, Any] = {"ns_steps": ns_steps, "overrides": self.overrides, "preset": self.preset}
        found = []
        for task in tasks:
            seeds = self.race_seeds if task == "race" else self.gates.seeds.get(task, 1)
            for seed, optimizer in product(range(seeds), optimizers):
                config = self.gates.configure(task, optimizer, seed, **settings)
                method = f"{task}, {optimizer}" + (f", {ns_steps} iterations" if optimizer == "Muon" else "")
                found.append(GateRun.of("comparison", method, seed, config, task=task, optimizer=optimizer))
        return found

    def count(self) -> int:
        """Return the number of runs if the speed is high enough."""
        return len(self.runs(["speed", *LONGEST_FIRST], self.gates.ns_steps))


class GatesStudy(Study[GatePlan]):
    """Gates with all that the engine and the index need of them."""

    min_seeds = 3
    measures_speed = True

    def __init__(self, gates: Gates) -> None:
        self.experiment: Gates = gates

    def parser(self) -> Parser:
        return common_parser(
            self.experiment.question, preset=self.experiment.preset, seeds=self.experiment.seeds["race"],
            seeds_help=f"seeds on which Muon and AdamW race, at least {self.min_seeds} (%(default)s)",
        )  # fmt: skip

    def plan(self, given: argparse.Namespace) -> GatePlan:
        here = given.launcher == "local"
        require(here, "the gates measure the speed of this machine: they run with --launcher local only")
        gates, overrides = self.experiment, overrides_of(given)
        first = gates.configure("speed", "Muon", 0, ns_steps=gates.ns_steps, overrides=overrides, preset=given.preset)
        return GatePlan(
            gates=gates, preset=given.preset, overrides=overrides, race_seeds=given.seeds, out=given.out,
            data_digest=identify(first.data),
        )  # fmt: skip

    def show(self, plan: GatePlan, jobs: int) -> None:
        gates = self.experiment
        if_slow = plan.runs(["speed"], gates.ns_steps_if_slow, ["Muon"])
        print(f"{gates.question}\n\npreset {plan.preset}, {plan.race_seeds} seeds of the race")
        race = next(iter(plan.runs(["race"], gates.ns_steps))).config
        predicted = cost_of_a_run(race).seconds
        seconds, per_estimate = 0.0, predicted / estimated_seconds(race) if predicted else 1.0
        for run in plan.runs(["speed"], gates.ns_steps) + if_slow + plan.runs(LONGEST_FIRST, gates.ns_steps):
            state = "done" if finished_record(plan.out, run.run_id) else "to do"
            note = " (if it is too slow with more)" if run in if_slow else ""
            print(f"  {run.task}  {run.run_id}  {run.name}  [{state}]{note}")
            if state == "to do":
                seconds += estimated_seconds(run.config) / (1 if run.task == "speed" else jobs)
        print(f"{plan.count()} runs, {jobs} at a time after the speed, with fewer iterations if that is too low")
        print(f"estimated time: {per_estimate * seconds / 60:.1f} minutes")

    def stages(self, plan: GatePlan, outcome: Outcome) -> Iterator[Batch]:
        """Yield the speed runs, Muon's again with fewer iterations if it was too slow, then everything else."""
        gates = self.experiment
        yield list(plan.runs(["speed"], gates.ns_steps)), ALONE
        rate = self._speed(plan)
        iterations = gates.iterations_at(rate)
        if iterations != gates.ns_steps:
            low = f"{rate:.1f} steps/s with {gates.ns_steps} iterations, below {gates.targets.steps_per_second:g}"
            print(f"{low}: going on with {iterations}", file=sys.stderr)
            yield list(plan.runs(["speed"], iterations, ["Muon"])), ALONE
        yield list(plan.runs(LONGEST_FIRST, iterations)), {}

    def _speed(self, plan: GatePlan) -> float | None:
        """Return Muon's steps per second at the full number of iterations; None if no run has finished."""
        ids = [run.run_id for run in plan.runs(["speed"], self.experiment.ns_steps, ["Muon"])]
        figures = [self.figures(record, read_metrics(plan.out / name)) for name in ids
                   if (record := finished_record(plan.out, name)) is not None]  # fmt: skip
        found = [one["steps_per_second"] for one in figures if "steps_per_second" in one]
        return median(found) if found else None

    def figures(self, record: RunRecord, metrics: Metrics) -> dict[str, Any]:
        """Return figures over every step; metrics.jsonl has a line per step and leaves out what is not finite."""
        finite = [row for row in metrics if "loss" in row and "grad_norm" in row]
        figures: dict[str, Any] = {"steps_not_finite": record.steps - len(finite)}
        if finite:
            largest = max(row["grad_norm"] for row in finite)
            figures |= {"first_loss": finite[0]["loss"], "largest_grad_norm": largest,
                        "lr_first": metrics[0]["lr"], "lr_last": metrics[-1]["lr"]}  # fmt: skip
        if len(finite) > 1:  # the first step is start-up
            figures["steps_per_second"] = 1 / median(row["seconds"] for row in finite[1:])
        if record.fell_back_at_step is not None:
            figures["fell_back_at_step"] = record.fell_back_at_step
        return figures

    def details(self, plan: GatePlan, runs: list[PlannedRun]) -> dict[str, Any]:
        gates, rate = self.experiment, self._speed(plan)
        iterations = gates.iterations_at(rate)
        overfit, automata = (run.config for run in plan.runs(["overfit", "automata"], iterations, ["Muon"]))
        return {
            "ns_steps": iterations, "ns_steps_wanted": gates.ns_steps, "race_seeds": plan.race_seeds,
            "steps_per_second_before_the_drop": None if iterations == gates.ns_steps else rate,
            "overfit_windows": overfit.train.overfit_windows,
            "automata_vocabulary": load_corpus(automata.data).vocab_size,
        }  # fmt: skip

    def report(self, reports: Path) -> tuple[Path, list[str], bool]:
        """Write report and figure; the experiment passes if every gate does."""
        path, judged = write_gates_report(self.experiment, self.read(reports), reports)
        lines = [*(gate.line for gate in judged), f"{self.name}: {overall(judged)}"]
        return path, lines, all(gate.passed for gate in judged)

    def listed(self, data: dict[str, Any]) -> list[Listed]:
        seeds = {"G4": self.experiment.seeds["speed"], "G6": data["race_seeds"]}
        return [Listed(question=self.experiment.question, contrast=f"{g.name}: {g.asks}", answer=g.label, effect=g.muon,
                       seeds=str(seeds.get(g.name, 1))) for g in judge_gates(self.experiment, data)]  # fmt: skip

    def cells(self, data: dict[str, Any]) -> list[tuple[str, str, str]]:
        """Return the overall result."""
        judged = judge_gates(self.experiment, data)
        return [(self.experiment.question, "–", f"**{overall(judged)}** of {len(judged)} gates")]
