"""A campaign as the engine carries it out: tuning of each rate, then the comparison at those chosen. No torch."""

# ruff: noqa: D102 (methods without a docstring inherit that of `Study`)

import argparse
import dataclasses
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.definition import Arm, Campaign, Contrast
from ngpt.campaign.definition.experiment import slug
from ngpt.campaign.definition.plan import (
    ASSUMED_FLOPS,
    ENDED,
    FINISHED,
    Plan,
    PlannedRun,
    described,
    estimated_seconds,
    identify,
)
from ngpt.campaign.engine import MAX_SEEDS, Batch, Study
from ngpt.campaign.execution import options
from ngpt.campaign.execution.collect import data_path, row_of
from ngpt.campaign.execution.execute import Outcome, finished_record
from ngpt.campaign.execution.known import is_finished, known_runs, result_of
from ngpt.campaign.execution.reproduce import reproduce
from ngpt.campaign.forecast import read_forecast, write_forecast
from ngpt.campaign.report.index import Indexed, Listed, VerdictLine
from ngpt.campaign.report.markdown import write_report
from ngpt.campaign.report.words import against, agreement, effect_of, groups, reach, short_name, tokens_of, word_of
from ngpt.campaign.standing import standing
from ngpt.command import Parser
from ngpt.config import RunConfig
from ngpt.data.cellular import Automaton, describe
from ngpt.errors import InputError, LastingStream, require
from ngpt.files import read_json
from ngpt.machine import core_count
from ngpt.presets import PRESETS
from ngpt.sources import is_no_path, name_of

WATCH_SECONDS = 10.0
"""time between two looks of --watch at the run folders"""

VARIOUS = "various"
"""schedule in the collected data of methods that differ in it"""


class CampaignStudy(Study[Plan]):
    """A campaign with all that the engine and the index need of it."""

    reports_partial_results = True

    seeds_help = "seeds on which each method chooses its rates (%(default)s); to compare: at least {}"
    """help of --seeds, where {} stands for the number of comparison seeds"""

    by_preset = True
    """whether it has data and a report of its own at each preset, under another name than at its usual one"""

    by_text = True
    """whether it has data and a report of its own on each text that has a name"""

    def __init__(self, campaign: Campaign) -> None:
        self.experiment: Campaign = campaign
        self.usual = campaign

    @property
    def runner(self) -> str:
        return self.usual.name

    def at(self, preset: str, text: str | None = None) -> "CampaignStudy":
        """Return the campaign at a preset and on a text that has a name.

        At another preset or on such a text it has another name.
        """
        if not self.by_preset:
            return self
        study, usual = CampaignStudy(self.usual), self.usual
        place = f"_at_{preset.replace('-', '_')}" * (preset != usual.preset) + (f"_on_{slug(text)}" if text else "")
        if place:
            there = usual.at(preset).on(text) if text else usual.at(preset)
            where = [f"at `{preset}`"] * (preset != usual.preset) + [f"on {text}"] * bool(text)
            study.experiment = dataclasses.replace(
                there, name=usual.name + place, title=f"{usual.title}: {' '.join(where)}"
            )
        return study

    def wherever_known(self, reports: Path) -> list[Indexed]:
        if not self.by_preset:
            return super().wherever_known(reports)
        usual, found = self.usual.preset, list[Indexed]()
        for preset in (usual, *(preset for preset in PRESETS if preset != usual)):
            plain = self.at(preset)
            found += [plain] if data_path(reports, plain.name).exists() else []
            for path in sorted(data_path(reports, plain.name).parent.glob(f"{plain.name}_on_*.json")):
                found.append(self.at(preset, read_json(path).get("data")))
        return found

    def parser(self) -> Parser:
        campaign = self.usual
        parser = options.common_parser(
            campaign.question, preset=campaign.preset, seeds=campaign.tuning_seeds,
            seeds_help=self.seeds_help.format(campaign.comparison_seeds),
        )  # fmt: skip
        if campaign.budget_seconds is None:
            parser.add_argument("--steps", type=int, help="steps of a run; default: the preset's")
        else:
            elsewhere = {preset: there.budget_seconds for preset, there in campaign.at_scale.items()}
            places = [f", {seconds:g} at {preset}" for preset, seconds in elsewhere.items() if seconds is not None]
            parser.add_argument(
                "--budget-seconds", dest="time_budget_seconds", metavar="SECONDS", type=float,
                help=f"training time of a run; default: {campaign.budget_seconds:g}{''.join(places)}",
            )  # fmt: skip
        options.add_campaign_flags(parser)
        return parser

    def plan(self, given: argparse.Namespace) -> Plan:
        if given.text is not None:
            self._require_sound_name(given)
        campaign = self.experiment = self.at(given.preset, given.text).experiment
        here = given.launcher == "local" or not given.reproduce
        require(here, "--reproduce compares runs of this machine: it works with --launcher local only")
        overrides = options.overrides_of(given)
        seconds = overrides.get("time_budget_seconds", 1.0)
        require(0 < seconds < math.inf, f"--budget-seconds must be positive: {seconds}")
        least, asked = campaign.rule.seeds, given.comparison_seeds
        sound = asked is None or least <= asked <= MAX_SEEDS
        require(sound, f"--comparison-seeds must be {least} to {MAX_SEEDS}: {asked}")
        if self._by_cpu_clock(given.device):
            overrides["clock"] = "cpu"
        one_each = campaign.with_lent_rates({arm.method: arm for arm in campaign.arms()}).values()
        first, *_ = [campaign.configure(arm, 0, overrides, given.preset) for arm in one_each]  # any may be refused
        seeds, digest = asked or max(campaign.comparison_seeds, given.seeds), identify(first.data)
        reports = options.reports_folder(given)
        path = data_path(reports, campaign.name)
        if path.exists():
            self._require_same_text(path, first, digest, given.text)
        own_clock = not given.known or campaign.budget_seconds is None
        require(own_clock, "--known: runs that end by the clock are compared on one machine only")
        needed = bool(campaign.forecast_from) and not (given.forecast or given.dry_run)
        forecast = read_forecast(campaign, seeds, reports) if needed else None
        return Plan(
            forecast=forecast, campaign=campaign, preset=given.preset, overrides=overrides, tuning_seeds=given.seeds,
            comparison_seeds=seeds, data_digest=digest, out=given.out, known=known_runs(given.known, digest),
        )  # fmt: skip

    def _require_sound_name(self, given: argparse.Namespace) -> None:
        require(self.by_text, "--text has no effect: this experiment has one report for all texts")
        require(given.data is not None, "--text is the name of --data, which is not given")
        sound = bool(slug(given.text)) and not is_no_path(given.text)
        require(sound, f"--text {given.text!r}: a name has letters or digits, and is not that of another source")

    def _require_same_text(self, path: Path, config: RunConfig, digest: str, text: str | None) -> None:
        """Raise InputError if the results in `path`, which would be replaced, are on another text."""
        there = read_json(path)
        if text is not None:
            same = (there.get("data"), there.get("data_digest")) == (text, digest)
            require(same, f"{path}: results on other data of this name: give another --text, or another --reports")
        beside = "--text NAME for results beside them, or " * self.by_text
        same = text is not None or there.get("data") == name_of(config.data.data)
        require(same, f"{path}: results on {there.get('data')}: give {beside}another --reports")

    def _by_cpu_clock(self, device: str) -> bool:
        return self.experiment.budget_seconds is not None and options.on_cpu(device)

    def usual_jobs(self, device: str) -> int:
        """Return one job per method where the processor's clock is the budget, so that all meet the same conditions."""
        return len(self.experiment.methods) if self._by_cpu_clock(device) else super().usual_jobs(device)

    def show(self, plan: Plan, jobs: int) -> None:
        campaign = self.experiment
        runs = [run for batch, _ in self.stages(plan, Outcome()) for run in batch]
        known = {run.stage for run in runs}
        print(f"{campaign.question}\n")
        print(f"preset {plan.preset}, data digest {plan.data_digest[:16]}, {plan.comparison_seeds} seeds to compare on")
        finished = [is_finished(plan, run) for run in runs]
        done = [record for run in runs if (record := finished_record(plan.out, run.run_id)) is not None]
        for run, ended in zip(runs, finished, strict=True):
            print(f"  {run.stage}  {run.run_id}  {run.name}  [{'done' if ended else 'to do'}]")
        if "tuning" not in known:
            for arm in campaign.tuned_arms():
                print(f"  tuning  {plan.tuning_seeds} seeds of {arm.name}")
        rates = ", ".join(f"{aux_lr:g}" for aux_lr in campaign.aux_lrs)
        for method in campaign.methods:
            if "auxiliary" not in known and (number := plan.auxiliary_rates(method)):
                print(f"  auxiliary  {plan.tuning_seeds} seeds of {method.name} at {number} of the rates {rates}")
        for method in campaign.methods if "comparison" not in known else ():
            where = " at the rate that tuning chooses" if len(method.lrs) != 1 or campaign.aux_lrs else ""
            print(f"  comparison  {plan.comparison_seeds} seeds of {method.name}{where}")
        config = campaign.configure(campaign.arms()[0], 0, plan.overrides, plan.preset)
        print(*described(config.data), sep="\n")
        cost = options.cost_of_a_run(config)
        if done:
            seconds = sum(r.train_seconds + r.eval_seconds for r in done) / len(done)
            basis = f"from {len(done)} finished runs"
        elif cost.seconds is not None:
            by_budget = config.train.time_budget_seconds is not None
            seconds, basis = cost.seconds, "the time budget" if by_budget else "as predicted above"
            sizes = Counter(run.config.model for run in runs)
            if not by_budget and len(sizes) > 1:
                each = {run.config.model: run.config for run in reversed(runs)}
                predicted = {model: options.seconds_of_a_run(one) for model, one in each.items()}
                seconds = sum(predicted[model] * number for model, number in sizes.items()) / len(runs)
                basis = f"the mean over {len(sizes)} sizes, each predicted alike"
        else:
            seconds, basis = estimated_seconds(config), f"assuming {ASSUMED_FLOPS:.0e} operations per second"
        print(f"{plan.count()} runs, {sum(finished)} finished; {seconds:.1f} s a run ({basis}), {jobs} at a time")
        at_once = min(jobs, core_count()) if config.train.clock == "cpu" else jobs
        print(f"estimated time: {(plan.count() - sum(finished)) * seconds / at_once / 60:.1f} minutes")

    def stages(self, plan: Plan, outcome: Outcome) -> Iterator[Batch]:
        """Yield the runs that tune each rate, then the comparison; each after the runs it starts from."""
        to_tune, to_compare = (partial(plan.pretraining_runs, stage) for stage in ("tuning", "comparison"))

        def auxiliary() -> list[PlannedRun]:
            return plan.auxiliary_runs(choose_hidden_rates(plan))

        for find in (to_tune, plan.tuning_runs, auxiliary, to_compare):  # an id depends on the weights it starts from
            runs = find()
            yield runs, {}
            if not _ended(plan, runs, outcome):
                return
        yield plan.comparison_runs(choose_rates(plan)), {}

    def forecast(self, plan: Plan, given: argparse.Namespace) -> int:
        campaign, reports = plan.campaign, options.reports_folder(given)
        stated = bool(campaign.forecast_from)
        require(stated, f"{self.name}: --forecast has no effect, since none is stated for {plan.preset}")
        runs = (run for batch, _ in self.stages(plan, Outcome()) for run in batch)
        begun = next((plan.out / run.run_id for run in runs
                      if run.run_id in plan.known or (plan.out / run.run_id).exists()), None)  # fmt: skip
        require(begun is None, f"{begun}: the first run has begun, so that it is too late for a forecast")
        studies = [self.at(preset, given.text) for preset in campaign.forecast_from]
        known = [(study.experiment, study.read(reports)) for study in studies]
        print(write_forecast(campaign, known, plan.comparison_seeds, reports))
        return 0

    def details(self, plan: Plan, runs: list[PlannedRun]) -> dict[str, Any]:
        first = next(run.config for run in runs if run.stage != "pretraining")
        sources = [run.config.data for run in runs if run.stage == "pretraining"]
        shapes = {(o.schedule, o.decay_share) for run in runs if run.stage != "pretraining" for o in [run.config.optim]}
        return {
            "planned_runs": len(runs) if any(run.stage == "comparison" for run in runs) else plan.count(),
            "tuning_seeds": plan.tuning_seeds, "comparison_seeds": plan.comparison_seeds,
            "training": {"steps": first.train.steps, "batch": first.train.batch_size, "dtype": first.train.dtype,
                         "compile": first.train.compile,
                         "schedule": first.optim.schedule if len(shapes) == 1 else VARIOUS,
                         "decay_share": first.optim.decay_share,
                         "aux_lr": first.optim.resolved_aux_lr, "grad_clip": first.optim.grad_clip,
                         "budget_seconds": first.train.time_budget_seconds, "clock": first.train.clock,
                         "projection_every": sorted({run.config.optim.lazy_proj_freq for run in runs})},
            "automata": {name: describe(Automaton.named(name))
                         for name in sorted({data.data for data in sources if data.tokenizer == "patches"})},
            **({} if plan.forecast is None else {"forecast": plan.forecast}),
        }  # fmt: skip

    def report(self, reports: Path) -> tuple[Path, list[str], bool]:
        """Write report and figures; the experiment fails if a flag had no effect or a run failed."""
        path, analysis = write_report(self.experiment, reports)
        said = (effect_of(a) if a.contrast.control else a.verdict.reason for a in analysis.answers)
        lines = [f"{a.contrast.name}: {word_of(a)}. {text}" for a, text in zip(analysis.answers, said, strict=True)]
        return path, lines, not (analysis.idle or analysis.counts.get("failed"))

    def reproduce(self, plan: Plan, given: argparse.Namespace, jobs: int) -> int:
        """Compare with the published data unless --reports is given."""
        published = self.read(options.reports_folder(given))
        classes = {str(method.fields.get("optimizer")) for method in self.experiment.methods}
        settings = {"jobs": jobs, "classes": classes, "place": given.data, **options.device_settings(given.device)}
        return 0 if reproduce(published, plan.data_digest, **settings) else 1

    def watch(self, plan: Plan) -> int:
        """Print how the campaign stands, at once and whenever a run has ended, until none is left. Writes nothing."""
        seen: dict[str, dict[str, Any]] = {}
        shown: list[str] | None = None
        while True:
            runs, rows = self._look(plan, seen)
            ended = [row["run_id"] for row in rows if row["status"] in ENDED]
            if ended != shown:
                compares = any(run.stage != "pretraining" for run in runs)
                details = self.details(plan, runs) if compares else {"planned_runs": plan.count()}
                print(*standing(self.experiment, {**details, "runs": rows}), sep="\n", end="\n\n", flush=True)
                shown = ended
            if len(ended) == len(runs):
                print("no run is left; the report has the answers", flush=True)
                return 0
            if isinstance(sys.stdout, LastingStream) and sys.stdout.lost is not None:
                raise InputError(f"standard output: {sys.stdout.lost.strerror}")
            time.sleep(WATCH_SECONDS)

    def _look(self, plan: Plan, seen: dict[str, dict[str, Any]]) -> tuple[list[PlannedRun], list[dict[str, Any]]]:
        """Return the runs of all stages that have begun, and their rows; those that have ended are kept in `seen`."""
        runs, rows, outcome = [], [], Outcome()
        for batch, _ in self.stages(plan, outcome):
            for run in batch:
                row = seen[run.run_id] if run.run_id in seen else row_of(run, plan.out, self.figures, plan.known)[0]
                if row["status"] in FINISHED:
                    seen[run.run_id] = row
                elif row["status"] == "failed":
                    outcome.failures[run.name] = row["message"]
                runs.append(run)
                rows.append(row)
        return runs, rows

    def listed(self, data: dict[str, Any]) -> list[Listed]:
        found = []
        for question, answers in analyze(self.experiment, data).questions().items():
            other = against(answers)
            asked = question if other is None else f"{question} Against {other}:"
            found += [
                Listed(question=asked, contrast=short_name(a, other), answer=word_of(a),
                       effect=effect_of(a) + (f" {a.contrast.rule.unit}" if a.verdict.effect is not None else ""),
                       seeds=agreement(a))
                for a in answers
            ]  # fmt: skip
        return found

    def cells(self, data: dict[str, Any]) -> list[tuple[str, str, str]]:
        """Return the answers to each question by word, and that nothing was tuned; a control is no question."""
        found = []
        untuned = [] if self.experiment.tuned else ["(rates not tuned)"]
        for question, answers in analyze(self.experiment, data).questions().items():
            if not answers[0].contrast.control:
                parts = [
                    ("" if len(answers) == 1 else f"{len(mine)} ") + f"**{word}**" + (f": {span}" if span else "")
                    for word, mine in groups(answers) for span in [reach(mine)]
                ]  # fmt: skip
                rule = answers[0].contrast.rule
                found.append((question, f"{rule.smallest_effect:g} {rule.unit}", "<br>".join([*parts, *untuned])))
        return found

    def verdicts(self, data: dict[str, Any]) -> list[VerdictLine]:
        """Return one line for each contrast."""
        by_clock = data["training"].get("budget_seconds") is not None
        name = self.usual.name if self.by_preset else self.name
        most = max(data["environments"], key=lambda environment: environment["runs"], default={"commit": None})
        scale = f"{data['preset']}, {data['data']}"
        found = []
        for answer in analyze(self.experiment, data).answers:
            effect, contrast = answer.verdict.effect, answer.contrast
            low, high = (None, None) if effect is None else (effect.t_low, effect.t_high)
            line = VerdictLine(
                id=f"{name} | {scale} | {contrast.name}", campaign=name, question=contrast.question,
                contrast=contrast.name, answer=None if contrast.control else answer.verdict.word,
                confirmed=None if contrast.control else answer.verdict.confirmed,
                effect=None if effect is None else round(effect.mean, 6),
                low=low and round(low, 6), high=high and round(high, 6), unit=contrast.rule.unit,
                smallest_effect=contrast.rule.smallest_effect, seeds=answer.seeds, agreeing=answer.agreeing,
                preset=data["preset"], parameters=data["parameters"], tokens=None if by_clock else tokens_of(data),
                data=data["data"], arch=self._architectures(contrast, data), control=contrast.control,
                date=data["dates"][-1] if data["dates"] else None, commit=most["commit"],
                report=self.experiment.report_name,
            )  # fmt: skip
            found.append(line)
        return found

    def _architectures(self, contrast: Contrast, data: dict[str, Any]) -> str:
        """Return the architecture of the methods that a contrast compares; all of them, if they differ."""
        methods = [method for method in self.experiment.methods if contrast.weights.get(method.name)]
        return " and ".join(sorted({method.fields.get("arch", data["model"]["arch"]) for method in methods}))


def _ended(plan: Plan, runs: list[PlannedRun], outcome: Outcome) -> bool:
    """Return whether every run has ended or failed, and all those whose weights others need are done."""
    ended = True
    for run in runs:
        if run.run_id in plan.known:
            continue
        record = finished_record(plan.out, run.run_id)
        if record is None:
            ended &= run.name in outcome.failures and run.stage != "pretraining"
        elif run.stage == "pretraining" and record.status != "done":  # it has no weights to give
            outcome.failures[run.name] = record.message or record.status
            ended = False
    return ended


def choose_hidden_rates(plan: Plan) -> dict[str, Arm]:
    """Choose each method's arm by its hidden rate, at the campaign's own auxiliary rate."""
    return _lowest(plan, plan.campaign.arms(), plan.tuning_runs())


def choose_rates(plan: Plan) -> dict[str, Arm]:
    """Choose each method's arm by its hidden rate, then by its auxiliary rate if the campaign tunes that."""
    chosen = choose_hidden_rates(plan)
    if plan.campaign.aux_lrs:
        chosen = _lowest(plan, plan.campaign.auxiliary_arms(chosen), plan.tuning_runs() + plan.auxiliary_runs(chosen))
    return plan.campaign.with_lent_rates(chosen)


def _lowest(plan: Plan, arms: Sequence[Arm], runs: Sequence[PlannedRun]) -> dict[str, Arm]:
    """Choose for each method the arm of lowest mean loss over `runs` among those in which every seed finished.

    An arm that has no rival is kept, as it was not tuned; a method without any complete arm is left out.
    """
    losses: dict[tuple[str, float, float | None], list[float]] = defaultdict(list)
    for run in runs:
        value = result_of(plan, run, plan.campaign.rule.metric)
        losses[run.arm.method, run.arm.lr, run.arm.aux_lr].append(math.nan if value is None else value)
    chosen = {}
    for name in dict.fromkeys(arm.method for arm in arms):
        mine = [arm for arm in arms if arm.method == name]
        means = [float(np.mean(losses.get((name, arm.lr, arm.aux_lr), [math.nan]))) for arm in mine]
        complete = [(mean, arm) for mean, arm in zip(means, mine, strict=True) if math.isfinite(mean)]
        if len(mine) == 1:
            chosen[name] = mine[0]
        elif complete:
            chosen[name] = min(complete, key=itemgetter(0))[1]
    return chosen
