"""A study of sensitivity as the engine carries it out: a campaign that tunes nothing, with its own report. No torch."""

# ruff: noqa: D102 (methods without a docstring inherit that of `Study`)

from pathlib import Path
from typing import Any

from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.report.index import Listed
from ngpt.campaign.report.words import agreement, effect_of
from ngpt.campaign.sensitivity.analysis import TUNING_QUESTION, Findings, find
from ngpt.campaign.sensitivity.definition import Sensitivity
from ngpt.campaign.sensitivity.report import write_sensitivity_report
from ngpt.campaign.untuned import UntunedStudy


class SensitivityStudy(UntunedStudy[Sensitivity]):
    """A study of sensitivity with all that the engine and the index need of it."""

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
