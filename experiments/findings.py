"""The findings that README states in words, written from the data in `reports/data`.

Every number is computed, and every verdict is worded by its label, so a sentence changes with its data.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import (
    advanced_features,
    equal_time,
    geodesic_muon,
    gpt_control,
    muon_at_155m,
    muon_lr_sweep,
    orthogonality,
    projection_frequency,
    scaling_ladder,
    sphere_finalists,
)
from experiments.longer_runs import longer_runs_sentence
from experiments.pooled import places_table
from experiments.widths import widths_sentence
from ngpt.campaign.analysis.analyze import Analysis, analyze
from ngpt.campaign.analysis.statistics import PairedDifference
from ngpt.campaign.analysis.verdict import Answer
from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition import Campaign, Word
from ngpt.campaign.execution.collect import OutdatedDataError, data_path, read_data
from ngpt.campaign.report import words
from ngpt.campaign.report.forecast import forecasts_of
from ngpt.campaign.report.index import final_data, runs_left
from ngpt.campaign.report.markdown import share_text

Words = Callable[[Analysis], str]

MUON_AGAINST_ADAM, GEODESIC, PROJECTION, FEATURES, ORTHOGONALITY = (
    CampaignStudy(one.CAMPAIGN).at("rung-1").experiment
    for one in (muon_lr_sweep, geodesic_muon, projection_frequency, advanced_features, orthogonality)
)
"""Where runs are longest"""

AT_155M = CampaignStudy(muon_at_155m.CAMPAIGN).at("155m", "English").experiment
AT_RUNG_3, AT_RUNG_3_ON_ENGLISH = (
    CampaignStudy(scaling_ladder.CAMPAIGN).at("rung-3", text).experiment for text in (None, "English")
)


@dataclass(frozen=True)
class Finding:
    """One bullet of README: a campaign and the words for its analysis."""

    campaign: Campaign
    words: Words
    elsewhere: Campaign | None = None
    """the same on another text, of which the bullet gives the first contrast"""


def findings_list(reports: Path) -> str:
    """Return the bullets, with what they have in common above, and below the main differences at each size and text.

    Links are relative to README.
    """
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
    bullets = []
    for (finding, data), parts in zip(found, scopes, strict=True):
        analysis = analyze(finding.campaign, data)
        own = [part for part in parts if part not in usual]
        done = sum(row["status"] == "done" for row in data["runs"])
        unfinished = [f"{done} of {data['planned_runs']} runs"] if runs_left(data) else []
        where = "; ".join([f"{seeds(analysis.answers)} seeds", *unfinished, *forecast(data, analysis), *own])
        report = f"[report](reports/{finding.campaign.report_name})"
        bullets.append(f"- {finding.words(analysis)} ({where}; {report}){repeated(finding, reports)}")
    intro = introduction(usual) + "\n\n" if found else ""
    more = [f"- {text}" for text in (widths_sentence(reports), longer_runs_sentence(reports)) if text]
    elsewhere = places_table(reports, IN_README)
    return intro + "\n".join([*bullets, *more, *missing]) + "\n" + elsewhere


def repeated(finding: Finding, reports: Path) -> str:
    """Return what a finding's first contrast comes to on another text, as a clause; nothing without final data."""
    campaign = finding.elsewhere
    data = None if campaign is None else final_data(campaign, reports)
    if campaign is None or data is None:
        return ""
    analysis = analyze(campaign, data)
    answer = analysis.answers[0]
    word = "" if answer.verdict.word in ("better", "worse") else f"{answer.verdict.word}, "
    where = "; ".join([*forecast(data, analysis), f"[report](reports/{campaign.report_name})"])
    return f"; on {data['data']} {word}{difference(answer)} ({where})"


def forecast(data: dict[str, Any], analysis: Analysis) -> list[str]:
    """Return the forecast of a campaign's first contrast, such as `forecast: 0.014 lower [−0.023, 0.050]`, if any."""
    one = next(iter(forecasts_of(data, analysis)), None)
    if one is None:
        return []
    band = PairedDifference(mean=one.mean, sd=math.nan, n=0, t_low=one.low, t_high=one.high, p=math.nan)
    return [f"forecast: {words.difference(band)}"]


def range_text(means: Sequence[float]) -> str:
    """Return the lowest and the highest of some effects in words, such as `−0.002 to +0.004`."""
    return f"{min(means):+.3f} to {max(means):+.3f}".replace("-", "−")


def introduction(usual: Sequence[str]) -> str:
    """Return what most findings have in common."""
    return (
        f"Unless stated otherwise, findings are from {', '.join(usual)}. "
        "Differences are in final validation loss, nats per token. Brackets are 95% intervals: confidence over seeds, "
        "prediction for forecasts."
    )


def scope(data: dict[str, Any]) -> list[str]:
    """Return what an answer holds for: the model, the text and the length of training."""
    model, training = data["model"], data["training"]
    budget = training.get("budget_seconds")
    whose = {"bytes": " (bytes)", "gpt2": " (GPT-2's)"}.get(data["tokenizer"], "")
    return [
        f"a {words.millions(data['parameters'])}-parameter {model['arch']}",
        f"one text ({words.TEXTS.get(data['data'], data['data'])})",
        f"{words.tokens_of(data):,} training tokens{whose}" if budget is None else f"{budget:g} s of training per run",
    ]


def seeds(answers: Sequence[Answer]) -> int:
    """Return the smallest number of paired seeds behind the answers that have an effect."""
    return min((answer.verdict.effect.n for answer in answers if answer.verdict.effect is not None), default=0)


def difference(answer: Answer, lower: str = "lower", higher: str = "higher", level: str = "level") -> str:
    """Return an effect in words, such as `0.098 lower [0.078, 0.119]`."""
    effect = answer.verdict.effect
    return "an unknown distance apart" if effect is None else words.difference(effect, lower, higher, level=level)


def named(answers: Sequence[Answer], name: str) -> Answer:
    """Return the answer to the contrast called `name`."""
    return next(answer for answer in answers if answer.contrast.name == name)


def matters(answer: Answer) -> str:
    """Return the smallest effect that matters."""
    return f"{answer.contrast.rule.smallest_effect:g}"


def muon_against_adam(analysis: Analysis) -> str:
    """State whether Muon beats Adam at equal steps, and after which share of them and of time it is at Adam's loss."""
    answer = named(analysis.answers, "Muon against Adam")
    muon = next(summary for summary in analysis.summaries if summary.method.name == "Muon")
    headline: dict[Word, str] = {
        "better": "At equal steps, Muon beats a tuned Adam",
        "no difference that matters": f"At equal steps, Muon and a tuned Adam end within {matters(answer)}",
        "worse": "At equal steps, Muon loses to a tuned Adam",
        "undecided": "Whether Muon beats a tuned Adam at equal steps is open",
    }
    text = f"**{headline[answer.verdict.word]}.** It ends {difference(answer)}"
    if np.isinf(muon.speedup).any():
        return f"{text} and does not reach Adam's final loss on every seed"
    shares = f"{share_text(muon.speedup)} of Adam's steps and {share_text(muon.time_share)} of its time"
    return f"{text}; it reaches Adam's final loss, its own rate not yet decayed, after {shares}"


def at_equal_time(analysis: Analysis) -> str:
    """State whether Muon beats Adam where runs end by the clock and steps are compiled."""
    answer = named(analysis.answers, "Muon against Adam")
    headline: dict[Word, str] = {
        "better": "Muon beats a tuned Adam",
        "no difference that matters": f"Muon and a tuned Adam end within {matters(answer)}",
        "worse": "a tuned Adam beats Muon",
        "undecided": "whether Muon beats a tuned Adam is open",
    }
    text = f"**Given the same time on a CPU, with compiled steps, {headline[answer.verdict.word]}.**"
    return text if answer.verdict.effect is None else f"{text} Muon ends {difference(answer)}"


def on_a_gpt(analysis: Analysis) -> str:
    """State whether Muon's lead over Adam is smaller on nGPT than on a GPT, where Adam has either beta1."""
    smaller, ours, theirs, usual = (
        named(analysis.answers, name)
        for name in ("Muon's lead, nGPT minus GPT", "Muon against Adam on nGPT", "Muon against Adam on GPT",
                     "Muon against Adam, beta1 0.9 on GPT")
    )  # fmt: skip
    headline: dict[Word, str] = {
        "better": "Muon's lead over Adam is larger on nGPT than on a GPT",
        "no difference that matters": "Muon's lead over Adam is the same on nGPT and on a GPT",
        "worse": "Muon's lead over Adam is smaller on nGPT than on a GPT",
        "undecided": "Whether Muon's lead over Adam is smaller on nGPT than on a GPT is open",
    }
    on_gpt = f"on a GPT {difference(theirs)}, or {difference(usual)} with Adam's beta1 0.9, not 0.7"
    return f"**{headline[smaller.verdict.word]}.** On nGPT Muon ends {difference(ours)}, {on_gpt}"


def at_a_third_size(analysis: Analysis) -> str:
    """State whether Muon beats Adam at a size at which no rate was tuned."""
    answer = named(analysis.answers, scaling_ladder.MUON_AGAINST_ADAM.name)
    headline: dict[Word, str] = {
        "better": "At a third size, with untuned rates, Muon beats Adam",
        "no difference that matters": "At a third size, with untuned rates, Muon and Adam end level",
        "worse": "At a third size, with untuned rates, Adam beats Muon",
        "undecided": "Whether Muon beats Adam at a third size, with untuned rates, is open",
    }
    return f"**{headline[answer.verdict.word]}.** Muon ends {difference(answer)}"


def adam_at_fixed_rates(analysis: Analysis) -> str:
    """State at how many of several rates that nobody tuned Muon ends lower than Adam, in a far larger model."""
    answers = [answer for answer in analysis.answers if not answer.contrast.control]
    ahead, rates = len(words.answers_of(answers, "worse")), len(answers)
    headline = f"Early in training a far larger model, Muon at one rate leads Adam at {ahead} of {rates} rates."
    means = [-answer.verdict.effect.mean for answer in answers if answer.verdict.effect is not None]
    return f"**{headline}**" + (f" Mean differences: {range_text(means)}; no rate is tuned" if means else "")


def geodesic_against_projection(analysis: Analysis) -> str:
    """State whether a geodesic or tangent step gains over Muon with projection."""
    variants = [answer for answer in analysis.answers if answer.contrast.question == geodesic_muon.CAMPAIGN.question]
    return gains(variants, "geodesic and tangent steps", "Muon with projection")


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
    costs = difference(less, "less than Adam", "more than Adam", "what it costs Adam")
    parts.append(f"{says[less.verdict.word]}: going from K = 1 to 20 costs Muon {costs}")
    text = "; ".join(parts)
    return f"**{headline}** {text[0].upper()}{text[1:]}"


def singular_values(analysis: Analysis) -> str:
    """State what noise in the singular values of Muon's update costs, and what Adam does without its vectors."""
    kaon, adam = (named(analysis.answers, f"{name} against Muon") for name in ("Kaon", "Adam"))
    costs: dict[Word, str] = {
        "better": "helps",
        "no difference that matters": "costs nothing that matters",
        "worse": "makes it worse",
        "undecided": f"may {'help' if kaon.verdict.side == 'lower' else 'cost something'}",
    }
    text = f"**Noise in the singular values of Muon's update {costs[kaon.verdict.word]}.**"
    text = f"{text} With values redrawn every step, Muon ends {difference(kaon)}"
    return f"{text}; Adam ends {difference(adam)}, each at its best angle per step"


def field_against_muon(analysis: Analysis) -> str:
    """State whether the best rules and optimizers of the field end lower than Muon in longer runs."""
    sent = sphere_finalists.BEST_AT_TINY
    answers = analysis.questions()[sphere_finalists.CAMPAIGN.question]
    answers = [answer for answer in answers if answer.contrast.pair is not None and answer.contrast.pair[0] in sent]
    return gains(answers, "methods best in short runs", "Muon", " in longer ones")


def features(analysis: Analysis) -> str:
    """State whether a feature of modded-nanogpt gains on gated nGPT."""
    answers = analysis.questions()[advanced_features.TRANSFER]
    return gains(answers, "features of modded-nanogpt tried", "plain Muon")


def gains(answers: Sequence[Answer], methods: str, baseline: str, where: str = "") -> str:
    """State how many of several methods beat a baseline by what matters, and by how much they differ from it.

    methods: what they are, in the plural. where: in which runs, after a space.
    """
    better, open_ = len(words.answers_of(answers, "better")), sum(not answer.verdict.confirmed for answer in answers)
    means = [answer.verdict.effect.mean for answer in answers if answer.verdict.effect is not None]
    what = f"{baseline} by {matters(answers[0])}{where}"
    listed = [answer.contrast.pair[0] for answer in answers if answer.contrast.pair is not None]
    which = f"{methods} ({', '.join(listed)})" if len(answers) == len(listed) <= words.FEW else methods
    if better:
        headline = f"Of the {len(answers)} {which}, {better} {'beats' if better == 1 else 'beat'} {what}."
    elif open_:
        headline = f"None of the {len(answers)} {which} is shown to beat {what}."
    else:
        headline = f"None of the {len(answers)} {which} beats {what}."
    if not means:
        return f"**{headline}**"
    worse = len(words.answers_of(answers, "worse"))
    rest = f"; {worse} {'is' if worse == 1 else 'are'} worse" if worse else ""
    return f"**{headline}** Mean differences: {range_text(means)}{rest}"


FINDINGS = (
    Finding(MUON_AGAINST_ADAM, muon_against_adam),
    Finding(equal_time.CAMPAIGN, at_equal_time),
    Finding(gpt_control.CAMPAIGN, on_a_gpt),
    Finding(AT_RUNG_3, at_a_third_size, elsewhere=AT_RUNG_3_ON_ENGLISH),
    Finding(AT_155M, adam_at_fixed_rates),
    Finding(ORTHOGONALITY, singular_values),
    Finding(sphere_finalists.CAMPAIGN, field_against_muon),
    Finding(FEATURES, features),
    Finding(GEODESIC, geodesic_against_projection),
    Finding(PROJECTION, lazy_projection),
)
"""The findings in README's order."""

IN_README = ("Muon against Adam", "NorMuon against Muon", "geodesic step, θ = lr‖u‖, against projection",
             "Muon, K = 20 against 7")  # fmt: skip
"""Comparisons that README shows at each size and on each text."""
