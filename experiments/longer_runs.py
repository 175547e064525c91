"""What was found at `tiny` and tried again in longer runs: which differences are still there."""

from dataclasses import dataclass
from pathlib import Path

from experiments import (
    advanced_features,
    geodesic_muon,
    muon_ablations,
    muon_lr_sweep,
    orthogonality,
    projection_frequency,
    sphere_finalists,
    sphere_optimizers,
)
from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.analysis.verdict import Answer
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign
from ngpt.campaign.execution.collect import OutdatedDataError, data_path, read_data
from ngpt.campaign.report.words import effect_of

AGAIN: tuple[tuple[Campaign, Campaign], ...] = (
    *((campaign, CampaignStudy(campaign).at("rung-1").experiment) for campaign in (
        muon_lr_sweep.CAMPAIGN, geodesic_muon.CAMPAIGN, projection_frequency.CAMPAIGN, advanced_features.CAMPAIGN,
        muon_ablations.CAMPAIGN,
    )),
    (sphere_optimizers.CAMPAIGN, sphere_finalists.CAMPAIGN),
    (orthogonality.CAMPAIGN, CampaignStudy(orthogonality.CAMPAIGN).at("rung-1").experiment),
)  # fmt: skip
"""Campaigns at `tiny`, each with the one that asks the same in longer runs"""

PAGE = "docs/reports.md#what-longer-runs-changed"


@dataclass(frozen=True)
class Again:
    """A difference that was found at `tiny`, and the answer to the same contrast in longer runs."""

    campaigns: tuple[Campaign, Campaign]
    before: Answer
    after: Answer

    @property
    def same(self) -> bool:
        """Whether the answer is the same."""
        return self.before.verdict.word == self.after.verdict.word


def tried_again(reports: Path) -> list[Again]:
    """Return every *better* or *worse* of `tiny` whose contrast has an answer in longer runs too."""
    found = []
    for pair in AGAIN:
        if not all(data_path(reports, campaign.name).exists() for campaign in pair):
            continue
        try:
            first, second = (analyze(campaign, read_data(campaign, reports)).answers for campaign in pair)
        except OutdatedDataError:  # the index names them
            continue
        later = {answer.contrast.name: answer for answer in second}
        for answer in first:
            name = answer.contrast.name
            claims = answer.verdict.word in ("better", "worse") and not answer.contrast.control
            if claims and name in later and later[name].verdict.effect is not None:
                found.append(Again(pair, answer, later[name]))
    return found


def longer_runs_table(reports: Path) -> str:
    """Return all differences that were tried again as a table, with links relative to docs/."""
    lines = ["| comparison | at `tiny` | in longer runs, `rung-1` |", "|---|---|---|"]
    for one in tried_again(reports):
        cells = [f"[**{answer.verdict.word}**](../reports/{campaign.report_name}), {effect_of(answer)}"
                 for campaign, answer in zip(one.campaigns, (one.before, one.after), strict=True)]  # fmt: skip
        lines.append(f"| {one.before.contrast.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def longer_runs_sentence(reports: Path) -> str:
    """Return in a sentence how many differences are smaller, too small to matter or not shown; empty without any."""
    found = tried_again(reports)
    if not found:
        return ""
    small = sum(one.after.verdict.word == "no difference that matters" for one in found)
    lost = sum(not one.same for one in found) - small
    smaller = sum(abs(_mean(one.after)) < abs(_mean(one.before)) for one in found)
    which = "All" if smaller == len(found) else f"{smaller} of"
    rest = [f"{small} no longer by what matters"] * bool(small) + [f"{lost} not shown any more"] * bool(lost)
    return (
        f"**{which} {len(found)} comparisons in which methods differed in short runs differ less in longer ones"
        f"{'; '.join(['', *rest])}**; they overlap, and more than length changed ([list]({PAGE}))"
    )


def _mean(answer: Answer) -> float:
    effect = answer.verdict.effect
    return 0.0 if effect is None else effect.mean
