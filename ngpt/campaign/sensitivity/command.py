"""A study of sensitivity as the engine carries it out: a campaign that tunes nothing, with its own report. No torch."""

# ruff: noqa: D102 (methods without a docstring inherit that of `Study`)

import argparse
from pathlib import Path
from typing import Any

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition.plan import Plan
from ngpt.campaign.execution.collect import data_path
from ngpt.campaign.report.index import Listed, VerdictLine
from ngpt.campaign.report.words import agreement, effect_of
from ngpt.campaign.sensitivity.analysis import TUNING_QUESTION, Findings, find
from ngpt.campaign.sensitivity.definition import Sensitivity
from ngpt.campaign.sensitivity.report import write_sensitivity_report
from ngpt.files import read_json


class SensitivityStudy(CampaignStudy):
    """A study of sensitivity with all that the engine and the index need of it.

    Its arms are placed around the defaults of a preset, so each preset has its own campaign: that of the flags, or of
    the collected data.
    """

    by_preset = False
    seeds_help = "seeds of every arm, at least {}; another number takes other seeds"

    def __init__(self, study: Sensitivity) -> None:
        super().__init__(study.at(study.preset))
        self.study = study

    def plan(self, given: argparse.Namespace) -> Plan:
        self.experiment = self.study.at(given.preset)
        plan = super().plan(given)
        for arm in self.experiment.arms():  # a value may be refused
            self.experiment.configure(arm, 0, plan.overrides, given.preset)
        return plan

    def read(self, reports: Path) -> dict[str, Any]:
        preset = read_json(data_path(reports, self.name)).get("preset", self.study.preset)
        self.experiment = self.study.at(preset)
        return super().read(reports)

    def report(self, reports: Path) -> tuple[Path, list[str], bool]:
        data = self.read(reports)
        path, analysis, findings = write_sensitivity_report(self.study, self.experiment, data, reports)
        lines = [f"{question} {answer}".replace("<br>", ". ") for question, answer in _answers(self.study, findings)]
        return path, lines, not (analysis.idle or analysis.counts.get("failed"))

    def listed(self, data: dict[str, Any]) -> list[Listed]:
        """Return one row for every setting of every method, with the best place to which it was moved."""
        found = []
        for scan in self._findings(data).judged:
            best = scan.best
            effect = "–" if best is None else f"{effect_of(best.answer)} {self.study.rule.unit}"
            values = "" if best is None else " ".join(["", *(f"{value:.6g}" for value in best.values)])
            seeds = "–" if best is None else agreement(best.answer)
            question = f"{self.study.question} The best other value of each setting:"
            found.append(Listed(question=question, contrast=scan.name + values, answer=scan.state, effect=effect,
                                seeds=seeds))  # fmt: skip
        return found

    def cells(self, data: dict[str, Any]) -> list[tuple[str, str, str]]:
        matters = f"{self.study.rule.smallest_effect:g} {self.study.rule.unit}"
        return [(question, matters, answer) for question, answer in _answers(self.study, self._findings(data))]

    def verdicts(self, data: dict[str, Any]) -> list[VerdictLine]:
        """Return nothing: a setting's state is not one of the four words."""
        return []

    def _findings(self, data: dict[str, Any]) -> Findings:
        campaign = self.study.at(data["preset"])
        return find(self.study, analyze(campaign, data), data)


def _answers(study: Sensitivity, findings: Findings) -> list[tuple[str, str]]:
    """Return both questions of a study, each with its answer in one line."""
    states = []
    for state in ("off", "open", "fine"):
        mine = [scan.name for scan in findings.judged if scan.state == state]
        states.append(f"{len(mine)} {state}" + (f" ({'; '.join(mine)})" if mine and state != "fine" else ""))
    advice = [
        f"{label}: {'; '.join(names)}" for label in ("tune per method", "open", "one value serves")
        if (names := [one.name for one in findings.compromises if one.advice == label])
    ]  # fmt: skip
    return [(study.question, ", ".join(states))] + ([(TUNING_QUESTION, "<br>".join(advice))] if advice else [])
