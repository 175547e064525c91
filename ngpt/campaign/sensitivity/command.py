"""A study of sensitivity as the engine carries it out: a campaign that tunes nothing, with its own report. No torch."""

# ruff: noqa: D102 (methods without a docstring inherit that of `Study`)

import argparse
from pathlib import Path
from typing import Any

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition.plan import Plan
from ngpt.campaign.execution.collect import data_path
from ngpt.campaign.report.markdown import effect_of
from ngpt.campaign.sensitivity.analysis import SHARED, Findings, find
from ngpt.campaign.sensitivity.definition import Sensitivity
from ngpt.campaign.sensitivity.report import write_sensitivity_report
from ngpt.files import read_json


class SensitivityStudy(CampaignStudy):
    """A study of sensitivity with all that the engine and the index need of it.

    Its arms are placed around the defaults of a preset, so each preset has its own campaign: that of the flags, or of
    the collected data.
    """

    seeds_help = "seeds of every arm (%(default)s)"

    def __init__(self, study: Sensitivity) -> None:
        super().__init__(study.at(study.preset))
        self.study = study

    def plan(self, given: argparse.Namespace) -> Plan:
        self.experiment = self.study.at(given.preset)
        return super().plan(given)

    def read(self, reports: Path) -> dict[str, Any]:
        preset = read_json(data_path(reports, self.name)).get("preset", self.study.preset)
        self.experiment = self.study.at(preset)
        return super().read(reports)

    def report(self, reports: Path) -> tuple[Path, list[str], bool]:
        data = self.read(reports)
        path, analysis, findings = write_sensitivity_report(self.study, self.experiment, data, reports)
        lines = [f"{question} {answer}" for question, answer in _answers(self.study, findings)]
        return path, lines, not (analysis.idle or analysis.counts.get("failed"))

    def rows(self, data: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
        """Return one row per knob and method, with the value that is lowest beside the default."""
        found: list[tuple[str, str, str, str, str]] = []
        for scan in self._findings(data).scans:
            best, unit = scan.foremost, self.study.rule.unit
            effect = "–" if best is None else f"{effect_of(best)} {unit}"
            name = f"{scan.method}: {scan.knob.name}" + ("" if best is None else f", {scan.foremost_value:.4g}")
            found.append((self.study.question, name, scan.state, effect, str(len(scan.losses))))
        return found

    def summaries(self, data: dict[str, Any]) -> list[tuple[str, str, str]]:
        findings = self._findings(data)
        seeds = str(len(findings.scans[0].losses))
        return [(question, answer, seeds) for question, answer in _answers(self.study, findings)]

    def _findings(self, data: dict[str, Any]) -> Findings:
        campaign = self.study.at(data["preset"])
        return find(self.study, analyze(campaign, data), data["preset"])


def _answers(study: Sensitivity, findings: Findings) -> list[tuple[str, str]]:
    """Return both questions of a study, each with its answer in one line."""
    states = []
    for state in ("off", "open", "fine"):
        mine = [scan for scan in findings.scans if scan.state == state]
        named = "; ".join(f"{scan.method}: {scan.knob.name}" for scan in mine)
        states.append(f"{len(mine)} {state}" + (f" ({named})" if mine and state != "fine" else ""))
    shared = [
        f"{label}: {', '.join(names)}" for label in ("tune per method", "open", "one value serves")
        if (names := [one.knob.name for one in findings.compromises if one.advice == label])
    ]  # fmt: skip
    return [(study.question, ", ".join(states))] + ([(SHARED, "; ".join(shared))] if shared else [])
