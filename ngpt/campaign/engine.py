"""The engine of every experiment: plan, carry out, collect, report, index. No torch."""

import argparse
import itertools
import shlex
import sys
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from ngpt.campaign.definition.plan import FINISHED, AnyPlan, PlannedRun, described
from ngpt.campaign.execution.collect import Metrics, collect, data_path, write_data
from ngpt.campaign.execution.execute import Outcome, execute, failures_of
from ngpt.campaign.execution.known import is_finished
from ngpt.campaign.execution.options import launch_settings, on_cpu, reports_folder, require_writable
from ngpt.campaign.report.index import Indexed, write_index
from ngpt.command import Parser
from ngpt.config import OptimConfig
from ngpt.errors import EXIT_INTERRUPTED, InputError, exit_code_of, raise_at_interrupt, require
from ngpt.files import read_json
from ngpt.foreign import is_class
from ngpt.machine import core_count, wait_without_spinning
from ngpt.refusals import flag_name
from ngpt.sources import name_of
from ngpt.training.ahead import require_compiler
from ngpt.training.record import RunRecord

Batch = tuple[list[PlannedRun], dict[str, Any]]
"""runs that may be carried out together, and settings of `execute` that differ for them"""

MAX_SEEDS = 1000

PlanT = TypeVar("PlanT", bound=AnyPlan)


class Study(Indexed, Generic[PlanT]):
    """An experiment as the engine sees it: flags, plan, stages, and report."""

    min_seeds = 2
    reports_partial_results = False
    """whether an interrupted experiment gets a report on the runs that are finished"""

    measures_speed = False
    """whether some runs have the whole machine to themselves, where threads that spin while they wait are faster"""

    @abstractmethod
    def parser(self) -> Parser:
        """Return the parser of the runner's flags."""

    @abstractmethod
    def plan(self, given: argparse.Namespace) -> PlanT:
        """Return the plan. Raises InputError for flags that do not fit the experiment."""

    def usual_jobs(self, device: str) -> int:
        """Return the number of concurrent runs unless --jobs is given: one per core, or one on a GPU."""
        return core_count() if on_cpu(device) else 1

    @abstractmethod
    def show(self, plan: PlanT, jobs: int) -> None:
        """Print the plan, which runs are finished, and an estimate of the time."""

    @abstractmethod
    def stages(self, plan: PlanT, outcome: Outcome) -> Iterator[Batch]:
        """Yield one batch of runs after another; each may depend on the results of those before it."""

    @abstractmethod
    def details(self, plan: PlanT, runs: list[PlannedRun]) -> dict[str, Any]:
        """Return what the collected data contain for this kind of experiment only."""

    def figures(self, record: RunRecord, metrics: Metrics) -> dict[str, Any]:
        """Return numbers of a run that are collected for this kind of experiment only."""
        return {}

    def reproduce(self, plan: PlanT, given: argparse.Namespace, jobs: int) -> int:
        """Repeat published runs and compare them to the bit; return the exit code."""
        raise InputError(f"{self.name} has no runs that --reproduce could repeat")

    def forecast(self, plan: PlanT, given: argparse.Namespace) -> int:
        """Write a forecast of the results before the first run; return the exit code."""
        raise InputError(f"{self.name} has nothing that --forecast could forecast")

    def watch(self, plan: PlanT) -> int:
        """Show how the experiment stands while another process carries it out; return the exit code."""
        raise InputError(f"{self.name} has no contrasts that --watch could show")


def main(name: str, studies: Sequence[Study[Any]]) -> None:
    """Run the experiment `name` as the command line says, list its answers with those of all `studies`, and exit."""
    raise_at_interrupt()

    def run() -> int:
        study = next((study for study in studies if study.runner == name), None)
        if study is None:
            raise InputError(f"{name}: not in INDEX of experiments/__init__.py")
        if not study.measures_speed:
            wait_without_spinning()  # in the processes of the runs
        return carry_out(study, sys.argv[1:], studies)

    sys.exit(exit_code_of(run))


def carry_out(study: Study[PlanT], arguments: list[str], index: Sequence[Indexed] = ()) -> int:
    """Carry out a whole experiment; return the exit code: 0, 1 if it failed, 130 if interrupted.

    Raises InputError for bad flags and if no run has finished.
    """
    given = study.parser().parse_args(arguments)
    sound = study.min_seeds <= given.seeds <= MAX_SEEDS and (given.jobs is None or given.jobs >= 1)
    require(sound, f"--seeds must be {study.min_seeds} to {MAX_SEEDS}, and --jobs at least 1")
    there = given.launcher == "ray" or given.ray_address is None
    require(there, "--ray-address has no effect without --launcher ray")
    plan, reports = study.plan(given), reports_folder(given)
    collected = _collected(study, reports) if given.report_only else None
    jobs = given.jobs or (collected or {}).get("jobs") or study.usual_jobs(given.device)
    mode = _mode(given, plan)
    if mode == "dry_run":
        study.show(plan, jobs)
        return 0
    if mode == "reproduce":
        return study.reproduce(plan, given, jobs)
    if mode == "forecast":
        return study.forecast(plan, given)
    if mode == "watch":
        return study.watch(plan)

    require_writable(plan.out, reports)
    settings = {"jobs": jobs} if given.report_only else launch_settings(given, jobs, study.name)
    runs, outcome = _carry_out_stages(study, plan, settings, report_only=given.report_only)
    finished = [run for run in runs if is_finished(plan, run)]
    if plan.known:
        taken = len({run.run_id for run in runs} & plan.known.keys())
        print(f"{taken} of the {len(plan.known)} finished runs in --known are of this campaign", file=sys.stderr)
    found = any(run.stage != "pretraining" for run in finished)
    if not found and not outcome.interrupted and not (given.report_only and data_path(reports, study.name).exists()):
        why = f"; the first failure: {next(iter(outcome.failures.values()))}" if outcome.failures else ""
        raise InputError(f"no finished run of {study.name} in {plan.out}{why}")
    if found and (study.reports_partial_results or not outcome.interrupted):  # else: from the data already collected
        command = shlex.join(["python", f"runners/{study.runner}.py", *without_places(arguments)])
        described_by = {"jobs": settings["jobs"], "text": vars(given).get("text"), "command": command}
        keep = given.report_only or outcome.interrupted
        _write_results(study, plan, runs, outcome, reports, keep=keep, **described_by)
    elif given.report_only:
        note = f"note: no finished run of this plan in {plan.out}; the report is that of"
        print(note, data_path(reports, study.name), file=sys.stderr)
    if outcome.interrupted:
        if found and study.reports_partial_results:
            study.report(reports)
        progress = f"interrupted with {len(finished)} of {plan.count()} runs finished"
        print(f"{progress}; the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED
    path, lines, succeeded = study.report(reports)
    write_index(index or [study], reports)
    print(*lines, path, sep="\n")
    return 0 if succeeded else 1


def _mode(given: argparse.Namespace, plan: AnyPlan) -> str | None:
    """Return which flag asks for something else than to carry the experiment out; None if none does."""
    modes = [name for name in ("dry_run", "report_only", "reproduce", "watch", "forecast") if vars(given).get(name)]
    require(len(modes) < 2, " and ".join(map(flag_name, modes)) + " exclude each other")
    mode = modes[0] if modes else None
    own = mode != "reproduce" or not plan.known
    require(own, "--reproduce repeats runs, and --known takes them from data: they exclude each other")
    return mode


def _write_results(
    study: Study[PlanT], plan: PlanT, runs: list[PlannedRun], outcome: Outcome, reports: Path, *, keep: bool,
    **described_by: Any,
) -> None:  # fmt: skip
    """Collect results, described by arguments of `collect`, and write them unless `keep` and more of them are there."""
    data = collect(
        study.experiment, runs, plan.out, failures=outcome.failures, figures=study.figures, known=plan.known,
        preset=plan.preset, data_digest=plan.data_digest, **described_by, **study.details(plan, runs),
    )  # fmt: skip
    if keep and holds_more(_collected(study, reports), data):
        note = f"has more finished runs of this campaign than {plan.out}; it is left as it is"
        print(f"note: {data_path(reports, study.name)} {note}", file=sys.stderr)
    else:
        write_data(reports, data)


def _collected(study: Study[PlanT], reports: Path) -> dict[str, Any] | None:
    """Return the data in `reports` that an experiment would replace; None if there are none."""
    path = data_path(reports, study.name)
    return read_json(path) if path.exists() else None


def holds_more(there: dict[str, Any] | None, data: dict[str, Any]) -> bool:
    """Return whether collected data of the same statements and text, by any code, have more finished runs."""
    if there is None or any(there.get(name) != data[name] for name in ("definition", "data_digest")):
        return False
    before, now = (sum(row["status"] in FINISHED for row in one["runs"]) for one in (there, data))
    return before > now


PLACES = ("--out", "--reports", "--json", "--known")
"""Flags that say where results go or are"""


def without_places(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that say what to run, without those that say where results go or are.

    A file of data keeps its name alone.

    >>> without_places(["--seeds", "5", "--out", "my/runs", "--data", "/home/me/text.txt", "--publish"])
    ['--seeds', '5', '--data', 'text.txt']
    >>> without_places(["--reports=r", "--data=/home/me/text.txt", "--out"])
    ['--data=text.txt']
    """
    words, kept = iter(arguments), list[str]()
    for word in words:
        if word in PLACES:
            next(words, None)
        elif word == "--data":
            kept += [word, *map(name_of, itertools.islice(words, 1))]
        elif word.startswith("--data="):
            kept.append(f"--data={name_of(word.removeprefix('--data='))}")
        elif word not in ("--report-only", "--publish") and word.partition("=")[0] not in PLACES:
            kept.append(word)
    return kept


def try_classes(runs: Sequence[PlannedRun]) -> None:
    """Try each class that the runs' --optimizer names, once, at a rate in the middle.

    Raises InputError for one that cannot train here.
    """
    classes: dict[tuple[str, str], list[OptimConfig]] = defaultdict(list)
    for run in runs:
        if is_class(run.config.optim.optimizer):
            classes[run.config.optim.optimizer, run.config.optim.optimizer_args].append(run.config.optim)
    if classes:
        from ngpt.optim.trial import require_fit  # imported late, as it needs torch

        for tried in classes.values():
            require_fit(sorted(tried, key=lambda optim: optim.lr)[len(tried) // 2])


def _carry_out_stages(
    study: Study[PlanT], plan: PlanT, settings: dict[str, Any], *, report_only: bool
) -> tuple[list[PlannedRun], Outcome]:
    """Carry out one batch of runs after another, or with `report_only` just find out which runs there are."""
    if not report_only:
        progress = f"{study.name}: {plan.count()} runs, {settings['jobs']} at a time; finished ones are not repeated"
        print(progress, file=sys.stderr)
    runs: list[PlannedRun] = []
    outcome = Outcome()
    for batch, different in study.stages(plan, outcome):
        if batch and not runs and not report_only:
            print(*described(batch[0].config.data), sep="\n", file=sys.stderr)
        runs += batch
        if report_only:
            outcome.failures |= failures_of([run for run in batch if run.run_id not in plan.known], plan.out)
        elif batch:
            pending = [run for run in batch if not is_finished(plan, run)]
            on_this_cpu = settings["device"] == "cpu" and "launcher" not in settings
            if on_this_cpu and any(run.config.train.compile for run in pending):
                require_compiler()
            try_classes(pending)
            each_once = {run.run_id: run for run in batch if run.run_id not in plan.known}
            ended = execute(list(each_once.values()), out=plan.out, **{**settings, **different})
            outcome.failures |= ended.failures
            outcome.interrupted |= ended.interrupted
        if outcome.interrupted:
            break
    return runs, outcome
