"""The command line of a campaign: plan, carry out, collect, report. What every script in `runners/` calls."""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ngpt.campaign.collect import collect, losses_by_method
from ngpt.campaign.definition import MOST_SEEDS, Campaign
from ngpt.campaign.execute import Outcome, execute, finished_record
from ngpt.campaign.index import Definition, write_index
from ngpt.campaign.options import (
    ASSUMED_FLOPS,
    common_parser,
    default_jobs,
    launched,
    on_cpu,
    overrides_of,
    require_writable,
    where,
)
from ngpt.campaign.plan import Plan, PlannedRun, choose_rates, estimated_operations
from ngpt.campaign.report import data_path, read_data, write_data, write_report
from ngpt.campaign.reproduce import reproduce
from ngpt.command import Parser
from ngpt.data.corpus import load_corpus
from ngpt.errors import EXIT_INTERRUPTED, InputError, exit_code_of
from ngpt.machine import core_count


def main(campaign: Campaign, index: Sequence[Definition] = ()) -> None:
    """Run the campaign as the command line says, list its answer with those of `index`, and exit."""
    sys.exit(exit_code_of(lambda: carry_out(campaign, sys.argv[1:], index)))


def build_parser(campaign: Campaign) -> Parser:
    """The flags of a campaign."""
    parser = common_parser(
        campaign.question, preset=campaign.preset, seeds=campaign.tuning_seeds,
        seeds_help=f"seeds an arm for choosing rates (%(default)s); comparison: at least {campaign.comparison_seeds}",
    )  # fmt: skip
    if campaign.budget_seconds is None:
        parser.add_argument("--steps", type=int, help="steps a run; the preset's if not given")
    else:
        parser.add_argument(
            "--budget-seconds", dest="time_budget_seconds", metavar="SECONDS", type=float,
            default=campaign.budget_seconds, help="training time of a run (%(default)s)",
        )  # fmt: skip
    parser.add_argument(
        "--reproduce", action="store_true", help="run one run of each method of the report again, compare to the bit"
    )
    return parser


def carry_out(campaign: Campaign, arguments: list[str], index: Sequence[Definition] = ()) -> int:
    """The whole campaign; returns the exit code: 0, 1 if a run failed or a flag had no effect, 130 if interrupted."""
    given = build_parser(campaign).parse_args(arguments)
    if not 2 <= given.seeds <= MOST_SEEDS or (given.jobs is not None and given.jobs < 1):
        raise InputError(f"--seeds must be 2 to {MOST_SEEDS}, and --jobs at least 1")
    overrides = overrides_of(given, "steps", "time_budget_seconds")
    by_cpu_clock = campaign.budget_seconds is not None and on_cpu(given.device)
    if by_cpu_clock:
        overrides["clock"] = "cpu"
    if not 0 < overrides.get("time_budget_seconds", 1.0) < math.inf:
        raise InputError(f"--budget-seconds must be positive: {given.time_budget_seconds}")
    first = campaign.configure(campaign.arms()[0], 0, overrides, given.preset)
    corpus = load_corpus(first.data)
    plan = Plan(
        campaign=campaign,
        preset=given.preset,
        overrides=overrides,
        tuning_seeds=given.seeds,
        comparison_seeds=max(campaign.comparison_seeds, given.seeds),
        data_digest=corpus.digest,
        out=given.out,
    )
    usual_jobs = len(campaign.methods) if by_cpu_clock else default_jobs(given.device)
    jobs = given.jobs or usual_jobs
    if given.launcher != "local" and given.reproduce:
        raise InputError("--reproduce compares runs of this machine: it knows no other --launcher")
    if given.dry_run:
        _show_plan(plan, given.out, jobs, corpus.vocab_size)
        return 0
    if given.reproduce:
        published = read_data(campaign, given.reports)
        return 0 if reproduce(published, plan.data_digest, jobs=jobs, **where(given.device)) else 1

    require_writable(given.out, given.reports)
    command = shlex.join(["python", f"runners/{campaign.name}.py", *arguments])
    settings = {"jobs": jobs} if given.report_only else launched(given, usual_jobs)
    jobs = settings["jobs"]
    runs, outcome = _carry_out_runs(plan, given, settings)
    ends = [run for run in runs if run.stage != "pretraining"]
    found = sum(finished_record(given.out, run.run_id) is not None for run in ends)
    if given.report_only and not found and data_path(given.reports, campaign.name).exists():
        return _finish(campaign, given, index)  # a checkout without the runs: from the collected data
    if not found:
        if outcome.interrupted:
            return _interrupted(runs, plan, given.out)
        raise InputError(f"no finished run of this campaign in {given.out}" + _first_message(outcome))
    command = command.replace(" --report-only", "")
    write_data(given.reports, collect(plan, runs, given.out, command=command, jobs=jobs, failures=outcome.failures))
    if outcome.interrupted:
        write_report(campaign, given.reports)
        return _interrupted(runs, plan, given.out)
    return _finish(campaign, given, index)


def _finish(campaign: Campaign, given: argparse.Namespace, index: Sequence[Definition]) -> int:
    """Report and index from the collected data; the answers and, last, the report's path on standard output."""
    path, analysis = write_report(campaign, given.reports)
    write_index(index or [campaign], given.reports)
    for answer in analysis.answers:
        print(f"{answer.contrast.name}: {answer.verdict.label}. {answer.verdict.reason}")
    print(path)
    return 1 if analysis.idle or analysis.counts.get("failed") else 0


def _carry_out_runs(
    plan: Plan, given: argparse.Namespace, settings: dict[str, Any]
) -> tuple[list[PlannedRun], Outcome]:
    """Tuning, then the comparison at the rates it chose; with --report-only only what is already there.

    settings: as for `execute`, without `out`.
    """
    print(
        f"{plan.campaign.name}: {plan.count()} runs, {settings['jobs']} at a time; finished ones are not repeated",
        file=sys.stderr,
    )
    done: list[PlannedRun] = []
    outcome = Outcome()

    def carry_out(runs: list[PlannedRun]) -> bool:
        """Whether every run has ended or failed, and those whose weights others need are done."""
        done.extend(runs)
        if runs and not given.report_only:
            found = execute(runs, out=given.out, **settings)
            outcome.failures |= found.failures
            outcome.interrupted |= found.interrupted
        going_on = not outcome.interrupted
        for run in runs:
            record = finished_record(given.out, run.run_id)
            if record is None:
                going_on &= run.name in outcome.failures and run.stage != "pretraining"
            elif run.stage == "pretraining" and record.status != "done":  # it has no weights to give
                outcome.failures[run.name] = record.message or record.status
                going_on = False
        return going_on

    if not carry_out(plan.pretraining_runs("tuning")):
        return done, outcome
    tuning = plan.tuning_runs()
    if not carry_out(tuning) or not carry_out(plan.pretraining_runs("comparison")):
        return done, outcome
    losses = losses_by_method(plan, tuning, given.out, plan.campaign.rule.metric)
    carry_out(plan.comparison_runs(choose_rates(plan.campaign, losses)))
    return done, outcome


def _interrupted(runs: list[PlannedRun], plan: Plan, out: Path) -> int:
    done = sum(finished_record(out, run.run_id) is not None for run in runs)
    print(f"interrupted with {done} of {plan.count()} runs finished; the same command continues", file=sys.stderr)
    return EXIT_INTERRUPTED


def _first_message(outcome: Outcome) -> str:
    return f"; the first failure: {next(iter(outcome.failures.values()))}" if outcome.failures else ""


def _show_plan(plan: Plan, out: Path, jobs: int, vocab_size: int) -> None:
    """The plan, the number of runs, those already finished, and an estimate of the time."""
    sources = plan.pretraining_runs("tuning")
    ready = all(finished_record(out, run.run_id) for run in sources)
    runs = sources + (plan.tuning_runs() if ready else [])
    done = [record for run in runs if (record := finished_record(out, run.run_id))]
    print(f"{plan.campaign.question}\n")
    print(
        f"preset {plan.preset}, data digest {plan.data_digest[:16]}, {plan.comparison_seeds} comparison seeds a method"
    )
    for run in runs:
        state = "done" if finished_record(out, run.run_id) else "to do"
        print(f"  {run.stage}  {run.run_id}  {run.name}  [{state}]")
    if not ready:
        for arm in plan.campaign.tuned_arms():
            print(f"  tuning  {plan.tuning_seeds} seeds of {arm.name}")
    for method in plan.campaign.methods:
        print(f"  comparison  {plan.comparison_seeds} seeds of {method.name} at the rate that tuning chooses")
    config = plan.campaign.configure(plan.campaign.arms()[0], 0, plan.overrides, plan.preset)
    if done:
        seconds = sum(r.train_seconds + r.eval_seconds for r in done) / len(done)
        basis = f"from {len(done)} finished runs"
    else:
        budget = config.train.time_budget_seconds
        seconds = estimated_operations(config, vocab_size) / ASSUMED_FLOPS if budget is None else budget
        basis = f"assuming {ASSUMED_FLOPS:.0e} operations a second" if budget is None else "the time budget"
    remaining = plan.count() - len(done)
    print(f"{plan.count()} runs, {len(done)} finished; {seconds:.1f} s a run ({basis}), {jobs} at a time")
    at_once = min(jobs, core_count()) if config.train.clock == "cpu" else jobs
    print(f"estimated time: {remaining * seconds / at_once / 60:.1f} minutes")
