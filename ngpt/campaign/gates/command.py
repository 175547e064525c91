"""The command line of the gates: speed first, alone on the machine, then all else; report, one line, exit code."""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ngpt.campaign.collect import curves_of, environments_of, figures_of
from ngpt.campaign.definition import MOST_SEEDS, Arm
from ngpt.campaign.execute import Outcome, execute, finished_record
from ngpt.campaign.gates.definition import LOWEST_SEEDS, Gates, OptimizerName, TaskName
from ngpt.campaign.gates.judge import BOTH, Gate, overall
from ngpt.campaign.gates.report import read_gates_data, write_gates_report
from ngpt.campaign.index import Definition, write_index
from ngpt.campaign.options import ASSUMED_FLOPS, common_parser, default_jobs, overrides_of, require_writable, where
from ngpt.campaign.plan import PlannedRun, digest_of, estimated_operations
from ngpt.campaign.report import data_path, write_data
from ngpt.data.corpus import load_corpus
from ngpt.errors import EXIT_INTERRUPTED, InputError, exit_code_of
from ngpt.flags import to_flags
from ngpt.identity import code_digest, run_id
from ngpt.training.record import RunRecord, read_metrics

LONGEST_FIRST: tuple[TaskName, ...] = ("stability", "race", "overfit", "automata")
"""Tasks after the speed, in an order that keeps all cores busy to the end."""


@dataclass(frozen=True, kw_only=True)
class GatePlan:
    """The gates on given data at a given size."""

    gates: Gates
    preset: str
    overrides: dict[str, Any]
    race_seeds: int
    out: Path

    def run(self, task: TaskName, optimizer: OptimizerName, seed: int, ns_steps: int) -> "GateRun":
        """One run of a task."""
        config = self.gates.configure(
            task, optimizer, seed, ns_steps=ns_steps, overrides=self.overrides, preset=self.preset
        )
        iterations = f", {ns_steps} iterations" if optimizer == "Muon" else ""
        arm = Arm(method=f"{task}, {optimizer}{iterations}", lr=config.optim.lr, fields={})
        identity = run_id(config, digest_of(config.data))
        planned = PlannedRun(stage="comparison", arm=arm, seed=seed, config=config, run_id=identity)
        return GateRun(task=task, optimizer=optimizer, run=planned)

    def runs(self, tasks: Sequence[TaskName], ns_steps: int) -> list["GateRun"]:
        """The runs of some tasks, both optimizers in turn."""
        seeds = {task: self.race_seeds if task == "race" else self.gates.tasks[task].seeds for task in tasks}
        return [
            self.run(task, optimizer, seed, ns_steps)
            for task in tasks
            for seed in range(seeds[task])
            for optimizer in BOTH
        ]


@dataclass(frozen=True, kw_only=True)
class GateRun:
    """A planned run and what it is for. Two tasks may ask for the same run."""

    task: TaskName
    optimizer: OptimizerName
    run: PlannedRun


def main(gates: Gates, index: Sequence[Definition] = ()) -> None:
    """Run the gates as the command line says and exit: 0 on PASS, 1 on FAIL."""
    sys.exit(exit_code_of(lambda: carry_out(gates, sys.argv[1:], index)))


def carry_out(gates: Gates, arguments: list[str], index: Sequence[Definition] = ()) -> int:
    """All gates; returns the exit code: 0 PASS, 1 FAIL, 130 interrupted."""
    given = common_parser(
        gates.question, preset=gates.preset, seeds=gates.tasks["race"].seeds,
        seeds_help=f"seeds of the race, at least {LOWEST_SEEDS} (%(default)s)",
    ).parse_args(arguments)  # fmt: skip
    if not LOWEST_SEEDS <= given.seeds <= MOST_SEEDS or (given.jobs is not None and given.jobs < 1):
        raise InputError(f"--seeds must be {LOWEST_SEEDS} to {MOST_SEEDS}, and --jobs at least 1")
    if given.launcher != "local":
        raise InputError("the gates measure the speed of this machine: they know no other --launcher")
    plan = GatePlan(
        gates=gates, preset=given.preset, overrides=overrides_of(given), race_seeds=given.seeds, out=given.out
    )  # fmt: skip
    jobs = given.jobs or default_jobs(given.device)
    if given.dry_run:
        _show_plan(plan, jobs)
        return 0

    require_writable(given.out, given.reports)
    carried_out = _carry_out_runs(plan, given, jobs)
    found = sum(finished_record(given.out, gate_run.run.run_id) is not None for gate_run in carried_out.runs)
    if carried_out.outcome.interrupted:
        print(f"interrupted with {found} runs finished; the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED
    if found or not (given.report_only and data_path(given.reports, gates.name).exists()):
        if not found:
            raise InputError(f"no finished run of these gates in {given.out}")
        command = shlex.join(["python", f"runners/{gates.name}.py", *arguments]).replace(" --report-only", "")
        write_data(given.reports, _collect(plan, carried_out, command=command, jobs=jobs))
    return _finish(gates, given, index)


def _finish(gates: Gates, given: argparse.Namespace, index: Sequence[Definition]) -> int:
    """Report and index from the collected data; a line a gate, the whole, and the report's path on standard output."""
    path, judged = write_gates_report(gates, read_gates_data(gates, given.reports), given.reports)
    write_index(index or [gates], given.reports)
    for gate in judged:
        print(line_of(gate))
    print(f"{gates.name}: {overall(judged)}")
    print(path)
    return 0 if all(gate.passed for gate in judged) else 1


def line_of(gate: Gate) -> str:
    """`G3 PASS  overfit 100 samples: below 0.5 bits per byte: Muon 0.2; AdamW 0.7`."""
    why = f": {gate.why}" if gate.why else ""
    return f"{gate.name} {gate.label}{why}  {gate.asks}: Muon {gate.muon}; AdamW {gate.adamw}"


@dataclass
class CarriedOut:
    """What was planned and what became of it."""

    runs: list[GateRun]
    outcome: Outcome
    ns_steps: int
    before_the_drop: float | None
    """steps a second at the full number of iterations, if that was too slow and they were dropped"""


def _carry_out_runs(plan: GatePlan, given: argparse.Namespace, jobs: int) -> CarriedOut:
    """Speed alone on the machine; fewer iterations if it is too low; then everything else."""
    gates = plan.gates
    result = CarriedOut([], Outcome(), gates.ns_steps, None)

    def carry_out(runs: list[GateRun], **settings: Any) -> bool:
        result.runs += runs
        if not given.report_only:
            once = {gate_run.run.run_id: gate_run.run for gate_run in runs}
            outcome = execute(list(once.values()), out=given.out, **settings)
            result.outcome.failures |= outcome.failures
            result.outcome.interrupted |= outcome.interrupted
        return not result.outcome.interrupted

    alone = {"jobs": 1, **where(given.device), "threads": 0}
    if not carry_out(plan.runs(["speed"], gates.ns_steps), **alone):
        return result
    measured = [
        row["steps_per_second"]
        for gate_run in result.runs
        if gate_run.optimizer == "Muon" and "steps_per_second" in (row := _row(gate_run, given.out))
    ]
    rate = median(measured) if measured else math.inf
    result.ns_steps = gates.iterations_at(rate)
    if result.ns_steps != gates.ns_steps:
        result.before_the_drop = rate
        print(
            f"{rate:.1f} steps/s with {gates.ns_steps} iterations, below {gates.targets.steps_per_second:g}: "
            f"going on with {result.ns_steps}",
            file=sys.stderr,
        )
        muons = [gate_run for gate_run in plan.runs(["speed"], result.ns_steps) if gate_run.optimizer == "Muon"]
        if not carry_out(muons, **alone):
            return result
    carry_out(plan.runs(LONGEST_FIRST, result.ns_steps), jobs=jobs, **where(given.device))
    return result


def _row(gate_run: GateRun, out: Path) -> dict[str, Any]:
    """What the gates need of one run."""
    run = gate_run.run
    record = finished_record(out, run.run_id)
    row: dict[str, Any] = {
        "task": gate_run.task, "optimizer": gate_run.optimizer, "seed": run.seed, "run_id": run.run_id,
        "lr": run.config.optim.lr, "ns_steps": run.config.optim.ns_steps,
        "status": "missing" if record is None else record.status,
    }  # fmt: skip
    if record is None:
        return row
    metrics = read_metrics(out / run.run_id)
    return row | figures_of(record) | curves_of(metrics) | _whole_run(record, metrics)


def _whole_run(record: RunRecord, metrics: list[dict[str, float]]) -> dict[str, Any]:
    """Figures over every step; metrics.jsonl has a line a step and leaves out what is not finite."""
    finite = [row for row in metrics if "loss" in row and "grad_norm" in row]
    figures: dict[str, Any] = {"steps_not_finite": record.steps - len(finite)}
    if finite:
        figures |= {
            "first_loss": finite[0]["loss"],
            "largest_grad_norm": max(row["grad_norm"] for row in finite),
            "lr_first": metrics[0]["lr"],
            "lr_last": metrics[-1]["lr"],
        }
    if len(finite) > 1:  # the first step is start-up
        figures["steps_per_second"] = 1 / median(row["seconds"] for row in finite[1:])
    if record.fell_back_at_step is not None:
        figures["fell_back_at_step"] = record.fell_back_at_step
    return figures


def _collect(plan: GatePlan, carried_out: CarriedOut, *, command: str, jobs: int) -> dict[str, Any]:
    """Everything the report needs, as JSON."""
    gates = plan.gates
    rows, records = [], []
    for gate_run in carried_out.runs:
        row, run = _row(gate_run, plan.out), gate_run.run
        if run.name in carried_out.outcome.failures:
            row |= {"status": "failed", "message": carried_out.outcome.failures[run.name]}
        rows.append(row)
        if (record := finished_record(plan.out, run.run_id)) is not None:
            records.append(record)
    first = plan.run("stability", "Muon", 0, carried_out.ns_steps).run.config
    automata = plan.run("automata", "Muon", 0, carried_out.ns_steps).run.config
    return {
        "campaign": gates.name,
        "definition": gates.digest,
        "preset": plan.preset,
        "data": first.data.data,
        "tokenizer": first.data.tokenizer,
        "data_digest": digest_of(first.data),
        "code_digest": code_digest(),
        "command": command,
        "jobs": jobs,
        "ns_steps": carried_out.ns_steps,
        "ns_steps_wanted": gates.ns_steps,
        "steps_per_second_before_the_drop": carried_out.before_the_drop,
        "race_seeds": plan.race_seeds,
        "overfit_windows": plan.run("overfit", "Muon", 0, carried_out.ns_steps).run.config.train.overfit_windows,
        "automata_vocabulary": load_corpus(automata.data).vocab_size,
        "parameters": records[0].parameters,
        "model": {"arch": first.model.arch, "layers": first.model.n_layer, "width": first.model.n_embd,
                  "heads": first.model.n_head, "context": first.model.seq_len, "mlp_hidden": first.model.mlp_hidden},
        "dates": sorted({record.finished[:10] for record in records if record.finished}),
        "commands": {g.run.run_id: " ".join(to_flags(g.run.config)) for g in carried_out.runs},
        "environments": environments_of(records),
        "runs": rows,
    }  # fmt: skip


def _show_plan(plan: GatePlan, jobs: int) -> None:
    """The plan, the number of runs, those already finished, and an estimate of the time."""
    gates = plan.gates
    speed = plan.runs(["speed"], gates.ns_steps)
    if_slow = [g for g in plan.runs(["speed"], gates.ns_steps_if_slow) if g.optimizer == "Muon"]
    rest = plan.runs(LONGEST_FIRST, gates.ns_steps)
    print(f"{gates.question}\n\npreset {plan.preset}, {plan.race_seeds} seeds of the race")
    seconds = 0.0
    for gate_run in speed + if_slow + rest:
        task, run = gate_run.task, gate_run.run
        state = "done" if finished_record(plan.out, run.run_id) else "to do"
        note = " (if it is too slow with more)" if gate_run in if_slow else ""
        print(f"  {task}  {run.run_id}  {run.name}  [{state}]{note}")
        if state == "to do":
            vocabulary = load_corpus(run.config.data).vocab_size
            seconds += estimated_operations(run.config, vocabulary) / ASSUMED_FLOPS / (1 if task == "speed" else jobs)
    print(f"{len(speed) + len(rest)} runs, {jobs} at a time after the speed, and fewer iterations if that is too low")
    print(f"estimated time: {seconds / 60:.1f} minutes, without the orthogonaliser's")
