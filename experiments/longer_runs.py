"""What was compared at `tiny` and in longer runs: which differences stay, shrink or appear."""

from dataclasses import dataclass
from pathlib import Path

from experiments import (
    advanced_features,
    geodesic_muon,
    muon_ablations,
    muon_lr_sweep,
    nca_pretraining,
    orthogonality,
    projection_frequency,
    sphere_finalists,
    sphere_optimizers,
)
from ngpt.campaign.analysis.analyze import analyze
from ngpt.campaign.analysis.verdict import Answer, are
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign, Word
from ngpt.campaign.report.index import final_data
from ngpt.campaign.report.words import effect_of

AGAIN: tuple[tuple[Campaign, Campaign], ...] = (
    *((campaign, CampaignStudy(campaign).at("rung-1").experiment) for campaign in (
        muon_lr_sweep.CAMPAIGN, geodesic_muon.CAMPAIGN, projection_frequency.CAMPAIGN, advanced_features.CAMPAIGN,
        muon_ablations.CAMPAIGN, nca_pretraining.CAMPAIGN,
    )),
    (sphere_optimizers.CAMPAIGN, sphere_finalists.CAMPAIGN),
    (orthogonality.CAMPAIGN, CampaignStudy(orthogonality.CAMPAIGN).at("rung-1").experiment),
)  # fmt: skip
"""Campaigns at `tiny`, each with the one that asks the same in longer runs"""

DIFFER: set[Word] = {"better", "worse"}

PAGE = "docs/reports.md#what-longer-runs-changed"


@dataclass(frozen=True)
class Again:
    """The answers to one contrast at `tiny` and in longer runs, one of which is *better* or *worse*."""

    campaigns: tuple[Campaign, Campaign]
    before: Answer
    after: Answer

    @property
    def words(self) -> tuple[Word, Word]:
        """The answers' words."""
        return self.before.verdict.word, self.after.verdict.word


def tried_again(reports: Path) -> list[Again]:
    """Return all contrasts with an answer in both lengths that is *better* or *worse* in at least one."""
    found = []
    for pair in AGAIN:
        both = [(campaign, data) for campaign in pair if (data := final_data(campaign, reports)) is not None]
        if len(both) < len(pair):  # their reports, or the index, say why
            continue
        first, second = (analyze(campaign, data).answers for campaign, data in both)
        later = {answer.contrast.name: answer for answer in second}
        for answer in first:
            after = later.get(answer.contrast.name)
            if after is None or answer.contrast.control or None in (answer.verdict.effect, after.verdict.effect):
                continue
            if not DIFFER.isdisjoint((one := Again(pair, answer, after)).words):
                found.append(one)
    return found


def longer_runs_table(reports: Path) -> str:
    """Return all of them as a table, with links relative to docs/."""
    lines = ["| comparison | at `tiny` | in longer runs, `rung-1` |", "|---|---|---|"]
    for one in tried_again(reports):
        cells = [f"[**{answer.verdict.word}**](../reports/{campaign.report_name}), {effect_of(answer)}"
                 for campaign, answer in zip(one.campaigns, (one.before, one.after), strict=True)]  # fmt: skip
        lines.append(f"| {one.before.contrast.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def longer_runs_sentence(reports: Path) -> str:
    """Return in a sentence what became of the differences of short runs, and how many appeared; empty without any."""
    tried = tried_again(reports)
    found = [one for one in tried if one.words[0] in DIFFER]
    if not found:
        return ""
    small = sum(one.words[1] == "no difference that matters" for one in found)
    turned = sum(set(one.words) == DIFFER for one in found)
    lost = sum(one.words[0] != one.words[1] for one in found) - small - turned
    smaller = sum(abs(_mean(one.after)) < abs(_mean(one.before)) for one in found)
    which = "All" if smaller == len(found) else f"{smaller} of"
    rest = [f"{small} no longer {'matters' if small == 1 else 'matter'}"] * bool(small)
    rest += [f"{lost} {are(lost)} undecided"] * bool(lost)
    rest += [f"{turned} {are(turned)} the other way round"] * bool(turned)
    new = len(tried) - len(found)
    appeared = f" {new} {'appears' if new == 1 else 'appear'} only in longer ones." if new else ""
    return (
        f"**{which} {len(found)} differences found in short runs are smaller in longer ones"
        f"{': ' * bool(rest)}{', '.join(rest)}.**{appeared} Differences selected for size shrink when "
        f"repeated ([list]({PAGE}))"
    )


def _mean(answer: Answer) -> float:
    effect = answer.verdict.effect
    return 0.0 if effect is None else effect.mean
