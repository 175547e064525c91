"""A study of rates across widths as the engine carries it out, with its own report. No torch."""

# ruff: noqa: D102 (methods without a docstring inherit that of `Study`)

from pathlib import Path
from typing import Any

from ngpt.campaign.report.index import Listed
from ngpt.campaign.transfer.analysis import Scaling, find
from ngpt.campaign.transfer.definition import Transfer
from ngpt.campaign.transfer.report import exponent_text, write_transfer_report
from ngpt.campaign.untuned import UntunedStudy


class TransferStudy(UntunedStudy[Transfer]):
    """A study of rates across widths with all that the engine and the index need of it."""

    def report(self, reports: Path) -> tuple[Path, list[str], bool]:
        data = self.read(reports)
        path, analysis, found = write_transfer_report(self.study, self.experiment, data, reports)
        exponents = [exponent_text(one.exponents["angle"]) for one in found]
        lines = [f"{one.method}: exponent of the angle {exponent}; {_states(one)}"
                 for one, exponent in zip(found, exponents, strict=True)]  # fmt: skip
        return path, lines, not (analysis.idle or analysis.counts.get("failed"))

    def listed(self, data: dict[str, Any]) -> list[Listed]:
        """Return one row for every rule and method, with the method's exponent."""
        seeds = str(data["comparison_seeds"])
        return [
            Listed(question=self.study.question, contrast=f"{tested.rule.name}: {one.method}", answer=tested.state,
                   effect=f"{exponent_text(one.exponents[of])}, exponent of the {of}", seeds=seeds)
            for one in find(self.study, data) for tested in one.tested for of in [tested.rule.of]
        ]  # fmt: skip

    def cells(self, data: dict[str, Any]) -> list[tuple[str, str, str]]:
        answers = [f"{one.method}: {_states(one)}" for one in find(self.study, data)]
        return [(self.study.question, f"{self.study.tolerance:g} in the exponent", "<br>".join(answers))]


def _states(one: Scaling) -> str:
    return "; ".join(f"{tested.rule.name} **{tested.state}**" for tested in one.tested)
