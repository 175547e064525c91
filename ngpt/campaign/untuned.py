"""Campaigns that tune nothing and have a report of their own kind. No torch."""

# ruff: noqa: D102 (methods without a docstring inherit that of `Study`)

import argparse
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign
from ngpt.campaign.definition.plan import Plan
from ngpt.campaign.execution.collect import data_path
from ngpt.campaign.execution.options import reports_folder
from ngpt.campaign.report.index import VerdictLine
from ngpt.errors import require
from ngpt.files import read_json


class Untuned(Protocol):
    """The statements of such a campaign."""

    @property
    def preset(self) -> str:
        """The usual preset."""

    def at(self, preset: str) -> Campaign:
        """Return the campaign that is carried out at a preset."""


StatementsT = TypeVar("StatementsT", bound=Untuned)


class UntunedStudy(CampaignStudy, Generic[StatementsT]):
    """Such a campaign with all that the engine and the index need of it.

    Its arms are placed around the defaults of a preset, so each preset has its own campaign: that of the flags, or of
    the collected data.
    """

    by_preset = by_text = False
    seeds_help = "seeds of every method, at least {}; another number takes other seeds"

    def __init__(self, study: StatementsT) -> None:
        super().__init__(study.at(study.preset))
        self.study = study

    def plan(self, given: argparse.Namespace) -> Plan:
        path = data_path(reports_folder(given), self.name)
        there = read_json(path).get("preset", self.study.preset) if path.exists() else given.preset
        same = there == given.preset or given.dry_run
        require(same, f"{path}: results at {there}, and there is one report for all presets: give another --reports")
        self.experiment = self.study.at(given.preset)
        plan = super().plan(given)
        for arm in self.experiment.arms():  # a value may be refused
            self.experiment.configure(arm, 0, plan.overrides, given.preset)
        return plan

    def read(self, reports: Path) -> dict[str, Any]:
        preset = read_json(data_path(reports, self.name)).get("preset", self.study.preset)
        self.experiment = self.study.at(preset)
        return super().read(reports)

    def verdicts(self, data: dict[str, Any]) -> list[VerdictLine]:
        """Return nothing: the answers are not one of the four words."""
        return []
