"""The findings that README states in words, written from the data in `reports/data`.

Every number is computed, and every verdict is worded by its label, so a sentence changes with its data.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import (
    advanced_features,
    geodesic_muon,
    muon_at_155m,
    muon_lr_sweep,
    orthogonality,
    projection_frequency,
    scaling_ladder,
    sphere_finalists,
)
from experiments.longer_runs import longer_runs_sentence
from ngpt.campaign.analysis.analyze import Analysis, analyze
from ngpt.campaign.analysis.statistics import Array, sample_mean
from ngpt.campaign.analysis.verdict import Answer
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign, Word
from ngpt.campaign.execution.collect import OutdatedDataError, data_path, read_data
from ngpt.campaign.report import words
from ngpt.campaign.report.markdown import share_text

Words = Callable[[Analysis], str]

GPU_RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
"""Where `benchmarks/gpu.py` leaves what it measured, as `*_cuda.json`."""

MUON_AGAINST_ADAM, MUON_AGAINST_ADAM_IN_ENGLISH = (
    CampaignStudy(muon_lr_sweep.CAMPAIGN).at("rung-1", text).experiment for text in (None, "English")
)
"""Where runs are longest, on both texts"""

GEODESIC, PROJECTION, FEATURES, ORTHOGONALITY = (
    CampaignStudy(one.CAMPAIGN).at("rung-1").experiment
    for one in (geodesic_muon, projection_frequency, advanced_features, orthogonality)
)

ON_ENGLISH, AT_RUNG_2 = (
    CampaignStudy(scaling_ladder.CAMPAIGN).at(preset, text).experiment
    for preset, text in (("rung-1", "English"), ("rung-2", None))
)
"""The main contrast of each question on another text and at a larger size"""

AT_155M = CampaignStudy(muon_at_155m.CAMPAIGN).at("155m", "English").experiment


@dataclass(frozen=True)
class Finding:
    """One bullet of README: a campaign and the words for its analysis."""

    campaign: Campaign
    words: Words
    elsewhere: tuple[tuple[Campaign, str, str], ...] = ()
    """campaigns on other texts or at other sizes, each with the contrast whose answer there is named too, and with what
    that compares where it is not what the finding is about"""
    on_a_gpu: tuple[tuple[Campaign, Words], ...] = ()
    """campaigns on a GPU, each with the words for its analysis"""


def findings_list(reports: Path) -> str:
    """Return the bullets, the data they share named once above them, as markdown with links relative to README."""
    found: list[tuple[Finding, dict[str, Any]]] = []
    missing: list[str] = []
    for finding in FINDINGS:
        try:
            if not data_path(reports, finding.campaign.name).exists():
                continue
            found.append((finding, read_data(finding.campaign, reports)))
        except OutdatedDataError:
            missing.append(f"- No finding on {finding.campaign.name}: its data come from another definition.")
    scopes = [scope(data) for _, data in found]
    usual = [Counter(parts).most_common(1)[0][0] for parts in zip(*scopes, strict=True)]
    bullets, used = [], [data for _, data in found]
    for (finding, data), parts in zip(found, scopes, strict=True):
        others = [(one, there) for one in finding.elsewhere if (there := data_of(one[0], reports)) is not None]
        used += [there for _, there in others]
        analysis = analyze(finding.campaign, data)
        on_a_gpu = [
            f"; [at {words.millions(there['parameters'])} parameters, on a GPU](reports/{campaign.report_name}), "
            + spoken(analyze(campaign, there))
            for campaign, spoken in finding.on_a_gpu
            if (there := data_of(campaign, reports)) is not None
        ]
        own = [part for part in parts if part not in usual]
        where = "; ".join([f"{seeds(analysis.answers)} seeds", *own])
        said = finding.words(analysis) + "".join(elsewhere(finding, *one, there) for one, there in others)
        said += "".join(on_a_gpu)
        bullets.append(f"- {said} ({where}; [report](reports/{finding.campaign.report_name}))")
    alone = all(parts == usual for parts in scopes) and len(used) == len(found)
    intro = introduction(usual, used, alone=alone) + "\n\n" if found else ""
    again = longer_runs_sentence(reports)
    return intro + "\n".join([*bullets, *([f"- {again}"] if again else []), *missing]) + "\n"


def data_of(campaign: Campaign, reports: Path) -> dict[str, Any] | None:
    """Return the collected data of a campaign; None without them, and if they are outdated, which the index says."""
    try:
        return read_data(campaign, reports) if data_path(reports, campaign.name).exists() else None
    except OutdatedDataError:
        return None


def elsewhere(finding: Finding, campaign: Campaign, contrast: str, compared: str, data: dict[str, Any]) -> str:
    """Return the answer to a contrast on another text or at another size, to go on a finding.

    compared: as in `Finding.elsewhere`.
    """
    answer = named(analyze(campaign, data).answers, contrast)
    at_another_size = campaign.preset != finding.campaign.preset
    where = f"at `{campaign.preset}`" if at_another_size else f"on {words.TEXTS.get(data['data'], data['data'])}"
    what = f"{compared}: " if compared else ""
    by = f", {difference(answer)}" if answer.verdict.word in ("better", "worse") else ""
    return f"; [{where}](reports/{campaign.report_name}) {what}*{answer.verdict.word}*{by}"


def introduction(usual: Sequence[str], collected: Sequence[dict[str, Any]], *, alone: bool) -> str:
    """Return what most findings have in common, and that nothing has run on a GPU while that is so.

    collected: the data of all findings, elsewhere too. alone: whether no finding says anything else.
    """
    devices = [environment["device"] for data in collected for environment in data["environments"]]
    on_cpus = all(re.search(r"\b\d+ cores\)$", device) for device in devices)
    gpu = "; nothing has run on a GPU yet" if on_cpus and not any(GPU_RESULTS.glob("*_cuda.json")) else ""
    which = "All findings are" if alone else "Unless they say otherwise, findings are"
    scale = f"{which} from {', '.join(usual)}{', on CPUs' if on_cpus else ''}{gpu}. " if usual else ""
    return f"{scale}Scales larger than stated are untested. Brackets hold 95% intervals over seeds."


def scope(data: dict[str, Any]) -> list[str]:
    """Return what an answer holds for: the model, the text and the length of training."""
    model, training = data["model"], data["training"]
    budget = training.get("budget_seconds")
    return [
        f"a {words.millions(data['parameters'])}-parameter {model['arch']}",
        f"one text ({words.TEXTS.get(data['data'], data['data'])})",
        f"{words.tokens_of(data):,} training tokens" if budget is None else f"{budget:g} s of training per run",
    ]


def seeds(answers: Sequence[Answer]) -> int:
    """Return the smallest number of paired seeds behind the answers."""
    return min(0 if answer.verdict.effect is None else answer.verdict.effect.n for answer in answers)


def difference(answer: Answer, lower: str = "lower", higher: str = "higher", level: str = "level") -> str:
    """Return an effect in words, such as `0.098 nats per token lower [0.078, 0.119]`."""
    effect, unit = answer.verdict.effect, answer.contrast.rule.unit
    if effect is None:
        return f"an unknown number of {unit} apart"
    return words.difference(effect, lower, higher, unit, level)


def named(answers: Sequence[Answer], name: str) -> Answer:
    """Return the answer to the contrast called `name`."""
    return next(answer for answer in answers if answer.contrast.name == name)


def matters(answer: Answer) -> str:
    """Return the smallest effect that matters, with its unit."""
    return f"{answer.contrast.rule.smallest_effect:g} {answer.contrast.rule.unit}"


def muon_against_adam(analysis: Analysis) -> str:
    """State whether Muon beats Adam at equal steps, and whether it is also sooner at Adam's final loss."""
    answer = named(analysis.answers, "Muon against Adam")
    muon = next(summary for summary in analysis.summaries if summary.method.name == "Muon")
    headline: dict[Word, str] = {
        "better": "At equal steps, Muon beats a tuned Adam",
        "no difference that matters": f"At equal steps, Muon and a tuned Adam end within {matters(answer)}",
        "worse": "At equal steps, Muon loses to a tuned Adam",
        "undecided": "Whether Muon beats a tuned Adam at equal steps is open",
    }
    text = f"**{headline[answer.verdict.word]}; in training time, {sooner(muon.time_share)}.** "
    text += f"It ends {difference(answer)}"
    if np.isinf(muon.speedup).any():
        return f"{text} and does not reach Adam's final loss on every seed"
    steps, time = share_text(muon.speedup), share_text(muon.time_share)
    return f"{text}; it reaches Adam's final loss after {steps} of Adam's steps and {time} of its training time"


def adam_at_fixed_rates(analysis: Analysis) -> str:
    """State how Adam fares against Muon at each of several rates that nobody tuned."""
    answers = [answer for answer in analysis.answers if not answer.contrast.control]
    parts = [f"{len(mine)} *{word}*, {words.reach(mine)}" for word, mine in words.groups(answers)]
    return f"Adam at {len(answers)} fixed rates: {'; '.join(parts)}"


def sooner(time_share: Array) -> str:
    """Return in words whether shares of a baseline's training time lie below 100%, by their interval."""
    interval = None if np.isinf(time_share).any() else sample_mean(time_share)
    if interval is not None and interval.t_high < 1:
        return "it is ahead"
    if interval is not None and interval.t_low <= 1:
        return "neither is shown to win"
    return "it is not ahead"


def geodesic_against_projection(analysis: Analysis) -> str:
    """State how many geodesic and tangent steps gain, and what the best of them does."""
    variants = [answer for answer in analysis.answers if answer.contrast.question == geodesic_muon.CAMPAIGN.question]
    gain, total = len(words.answers_of(variants, "better")), len(variants)
    what = f"{matters(variants[0])} over Muon with projection"
    open_ = len(words.answers_of(variants, "undecided"))
    if gain:
        headline = f"Of {total} geodesic and tangent steps, {gain} gain {what}."
    elif open_:
        headline = f"No geodesic or tangent step is shown to gain {what} ({open_} of {total} are open)."
    else:
        headline = f"No geodesic or tangent step gains {what}."
    known = [answer for answer in variants if answer.verdict.effect is not None]
    if not known:
        return f"**{headline}**"
    best = min(known, key=lambda answer: answer.verdict.effect.mean if answer.verdict.effect else 0.0)
    return f"**{headline}** The best, *{best.contrast.name.split(' against ')[0]}*, ends {difference(best)}"


def lazy_projection(analysis: Analysis) -> str:
    """State how rarely Muon's weights may be projected, and whether Adam needs it more often."""
    names = {f"{projection_frequency.named('Muon', k)} against Muon, K = 1": k for k in projection_frequency.INTERVALS}
    by_interval = {names[a.contrast.name]: a for a in analysis.answers if a.contrast.name in names}
    free = 1
    for interval, answer in by_interval.items():
        if answer.verdict.word in ("worse", "undecided"):
            break
        free = interval
    parts = []
    if free == 1:
        headline = "Projecting less often than every step is not shown to be free."
    else:
        headline = f"Projecting every {free} steps instead of every step costs Muon nothing that matters."
        parts.append(f"its loss ends {difference(by_interval[free])}")
    beyond = next((interval for interval in by_interval if interval > free), None)
    if beyond is not None:
        parts.append(f"with K = {beyond}, {difference(by_interval[beyond])}")
    less = analysis.answers[0]
    says: dict[Word, str] = {
        "better": "Adam needs it more often",
        "no difference that matters": "Adam does not need it noticeably more often",
        "worse": "Adam needs it less often",
        "undecided": "whether Adam needs it more often is open",
    }
    parts.append(f"{says[less.verdict.word]}: K = 20 costs Muon {difference(less, 'less', 'more', 'the same')}")
    text = "; ".join(parts)
    return f"**{headline}** {text[0].upper()}{text[1:]}"


def singular_vectors(analysis: Analysis) -> str:
    """State what the singular vectors of Muon's update are worth, and what its even spectrum, at equal angles."""
    kaon, adam = (named(analysis.answers, f"{name} against Muon") for name in ("Kaon", "Adam"))
    effects = [answer.verdict.effect.mean for answer in (kaon, adam) if answer.verdict.effect is not None]
    if adam.verdict.word != "worse" or len(effects) < 2 or 2 * effects[0] > effects[1]:
        return "**Whether it is its singular vectors that make Muon's update good is open.**"
    spectrum: dict[Word, str] = {
        "better": "and an uneven spectrum is better",
        "no difference that matters": "not its even spectrum",
        "worse": "its even spectrum less",
        "undecided": "perhaps not its even spectrum",
    }
    headline = f"At equal angles per step, Muon's singular vectors matter, {spectrum[kaon.verdict.word]}."
    text = f"**{headline}** With random singular values it ends {difference(kaon)}"
    return f"{text}; Adam, which computes none, ends {difference(adam)}"


def field_against_muon(analysis: Analysis) -> str:
    """State whether the best rules and optimizers of the field end lower than Muon in longer runs."""
    sent = sphere_finalists.BEST_AT_TINY
    answers = analysis.questions()[sphere_finalists.CAMPAIGN.question]
    answers = [answer for answer in answers if answer.contrast.pair is not None and answer.contrast.pair[0] in sent]
    return gains(answers, "methods best in short runs", "lower than Muon in longer ones")


def features(analysis: Analysis) -> str:
    """State whether a feature of modded-nanogpt gains on gated nGPT."""
    answers = analysis.questions()[advanced_features.TRANSFER]
    return gains(answers, "features of modded-nanogpt tried", "lower than plain Muon")


def gains(answers: Sequence[Answer], methods: str, where: str) -> str:
    """State how many of several methods end lower than one that they are compared with, and by how much they differ.

    methods: what they are, in the plural. where: `lower than` what, and in which runs.
    """
    better, open_ = len(words.answers_of(answers, "better")), sum(not answer.verdict.confirmed for answer in answers)
    means = [answer.verdict.effect.mean for answer in answers if answer.verdict.effect is not None]
    what = f"{matters(answers[0])} {where}"
    if better:
        headline = f"Of the {len(answers)} {methods}, {better} {'ends' if better == 1 else 'end'} {what}."
    elif open_:
        headline = f"None of the {len(answers)} {methods} is shown to end {what}."
    else:
        headline = f"None of the {len(answers)} {methods} ends {what}."
    if not means:
        return f"**{headline}**"
    low, high = (f"{mean:+.3f}".replace("-", "−") for mean in (min(means), max(means)))
    worse = len(words.answers_of(answers, "worse"))
    rest = f"; {worse} {'is' if worse == 1 else 'are'} worse" if worse else ""
    return f"**{headline}** Mean losses differ by {low} to {high} nats per token{rest}"


def on_the_ladder(contrast: str, compared: str) -> tuple[tuple[Campaign, str, str], ...]:
    """Return a contrast of the ladder on another text and at a larger size, and what it compares."""
    return tuple((campaign, contrast, compared) for campaign in (ON_ENGLISH, AT_RUNG_2))


FINDINGS = (
    Finding(
        MUON_AGAINST_ADAM,
        muon_against_adam,
        (
            (MUON_AGAINST_ADAM_IN_ENGLISH, "Muon against Adam", ""),
            (ON_ENGLISH, "Muon against Adam", "again"),
            (AT_RUNG_2, "Muon against Adam", ""),
        ),
        ((AT_155M, adam_at_fixed_rates),),
    ),
    Finding(ORTHOGONALITY, singular_vectors),
    Finding(sphere_finalists.CAMPAIGN, field_against_muon),
    Finding(FEATURES, features, on_the_ladder("NorMuon against Muon", "NorMuon")),
    Finding(GEODESIC, geodesic_against_projection, on_the_ladder("geodesic Muon against Muon", "θ = lr‖u‖")),
    Finding(PROJECTION, lazy_projection, on_the_ladder("Muon, K = 20 against Muon", "20 steps instead of 7")),
)
"""The findings in README's order."""
