"""Answers as a person would say them: words, sentences and numbers as text. No torch."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.analysis.statistics import PairedDifference
from ngpt.campaign.analysis.verdict import Answer
from ngpt.campaign.definition import Campaign, Word

ORDER: tuple[Word, ...] = ("better", "no difference that matters", "worse", "undecided")
"""the words as tallies list them"""

FEW = 3
"""methods that a sentence names one by one"""


def signed(value: float, digits: int = 4) -> str:
    """Return a number with its sign and a real minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval_text(effect: PairedDifference | None) -> str:
    """Return `−0.0972 [−0.1190, −0.0754]`, or a dash."""
    return "–" if effect is None else f"{signed(effect.mean)} [{signed(effect.t_low)}, {signed(effect.t_high)}]"


def effect_of(answer: Answer) -> str:
    """Return the effect of an answer with its interval, in the unit of the rule, or a dash."""
    return interval_text(answer.verdict.effect)


def word_of(answer: Answer) -> str:
    """Return the answer's word; with the side of zero where it does not say so. A control has none."""
    if answer.contrast.control:
        return "control"
    word, side = answer.verdict.word, answer.verdict.side
    return f"{word} ({side})" if side and word not in ("better", "worse") else word


def agreement(answer: Answer) -> str:
    """Return `9 of 10`: the seeds on which the contrast has the sign of its mean."""
    return f"{answer.agreeing} of {answer.seeds}" if answer.seeds else "0"


def prediction(answers: Sequence[Answer]) -> str:
    """Return what was predicted for the answers to one question, and for which it came true."""
    rule = answers[0].contrast.rule
    if rule.predicted is None:
        return "No prediction was made."
    confirmed = [answer for answer in answers if answer.verdict.confirmed]
    if len(answers) == 1:
        return f"Predicted {rule.predicted}: {'confirmed' if confirmed else 'not confirmed'}."
    for_which = "none" if not confirmed else "all" if len(confirmed) == len(answers) else f"{len(confirmed)}"
    undecided = len(answers_of(answers, "undecided"))
    rest = f" ({undecided} undecided)" if undecided else ""
    return f"Predicted {rule.predicted}: confirmed for {for_which} of {len(answers)}{rest}."


def against(answers: Sequence[Answer]) -> str | None:
    """Return the one method with which all the answers compare another; None if there is no such method."""
    pairs = [answer.contrast.pair for answer in answers]
    others = {pair[1] for pair in pairs if pair is not None}
    return others.pop() if len(others) == 1 and None not in pairs else None


def short_name(answer: Answer, other: str | None) -> str:
    """Return the name of a contrast without the method that it shares with others, where there is one."""
    pair = answer.contrast.pair
    return answer.contrast.name if other is None or pair is None else pair[0]


def difference(
    effect: PairedDifference, lower: str = "lower", higher: str = "higher", unit: str = "", level: str = "level"
) -> str:
    """Return an effect in words, such as `0.098 nats per token lower [0.078, 0.119]`.

    lower, higher, level: what stands for the side; the last where the effect is zero to three digits.
    """
    low, high = sorted((abs(effect.t_low), abs(effect.t_high)))
    if effect.t_low < 0 < effect.t_high:  # the interval has both signs
        low, high = (effect.t_low, effect.t_high) if effect.mean > 0 else (-effect.t_high, -effect.t_low)
    side, size = higher if effect.mean > 0 else lower, f"{abs(effect.mean):.3f}"
    digits = 4 if 0 < min(abs(low), abs(high)) < 5e-4 else 3  # or an end would read as zero, whatever its sign
    numbers = f"[{low:.{digits}f}, {high:.{digits}f}]".replace("[-", "[−")
    return f"{level} {numbers}" if size == "0.000" else f"{size} {unit} {side} {numbers}".replace("  ", " ")


TEXTS = {"stdlib": "Python's standard library"}
"""what `--data` means, where its value does not say so by itself"""


def scale_of(data: dict[str, Any]) -> str:
    """Return the scale of a campaign, such as `a 0.18M-parameter model trained on 0.20M tokens of text.txt`."""
    text, seconds = TEXTS.get(data["data"], data["data"]), data["training"].get("budget_seconds")
    length = f"for {seconds:g} s on {text}" if seconds else f"on {millions(tokens_of(data))} tokens of {text}"
    model = f"a {millions(data['parameters'])}-parameter model" if data["parameters"] else "a model"
    return f"{model} trained {length}"


def tokens_of(data: dict[str, Any]) -> int:
    """Return the number of training tokens of a run that ends after its steps."""
    training = data["training"]
    return int(training["steps"] * training["batch"] * data["model"]["context"])


def millions(number: int) -> str:
    """Return a number in millions with two or three digits, `0.18M` or `155M`; a small one in full."""
    if number < 100_000:
        return f"{number:,}"
    value = number / 1e6
    return f"{value:.0f}M" if value >= 100 else f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}M"


def on_seeds(answer: Answer) -> str:
    """Return `on all 5 seeds` or `on 9 of 10 seeds`."""
    return f"on all {answer.seeds} seeds" if answer.agreeing == answer.seeds else f"on {agreement(answer)} seeds"


def exchange_text(share: float, other: str) -> str:
    """Return what an effect is worth in training of the method it is against."""
    if math.isinf(share):
        return f"more than {other} gains after its first validation"
    shown = "less than 1%" if share < 0.01 else f"{share:.0%}"
    return f"as much as {other} gains in the last {shown} of its training"


def share_of_training(share: float) -> str:
    """Return a share of training in a cell of a table."""
    return "100% or more" if math.isinf(share) else percent(share)


def is_cpu(device: str) -> bool:
    """Return whether a device, as a run's environment names it, is a CPU."""
    return re.search(r"\b\d+ cores\)$", device) is not None


def sentence(analysis: Analysis, answer: Answer) -> str:
    """Return one comparison as a person would say it, with its numbers."""
    verdict, pair, unit = answer.verdict, answer.contrast.pair, answer.contrast.rule.unit
    if verdict.effect is None:
        return f"{answer.contrast.name}: undecided, too few runs have a result"
    if pair is None:
        numbers = difference(verdict.effect, unit=unit, level=f"0.000 {unit}")
        text = f"{answer.contrast.name}: {verdict.word}, {numbers}, {on_seeds(answer)}"
    else:
        start = {
            "better": f"{pair[0]} is better than {pair[1]}",
            "worse": f"{pair[0]} is worse than {pair[1]}",
            "undecided": f"whether {pair[0]} is better or worse than {pair[1]} is undecided",
        }.get(verdict.word, f"{pair[0]} and {pair[1]} do not differ by what matters")
        which = pair[0] if verdict.word == "no difference that matters" else "it"
        text = f"{start}: {which} ends {difference(verdict.effect, unit=unit)}, {on_seeds(answer)}"
        share = analysis.exchange.get(answer.contrast.name)
        if verdict.word in ("better", "worse") and share is not None:
            return f"{text}. That is {exchange_text(share, pair[1])}"
    if verdict.doubted:
        return f"{text}; {verdict.why}"
    needed = verdict.seeds_needed
    return f"{text}; about {needed:,} new seeds would have an even chance of deciding" if needed else text


def groups(answers: Sequence[Answer]) -> list[tuple[Word, list[Answer]]]:
    """Return the answers by word, in the order of `ORDER`."""
    found = [(word, answers_of(answers, word)) for word in ORDER]
    return [(word, mine) for word, mine in found if mine]


def reach(answers: Sequence[Answer]) -> str:
    """Return the range of the effects, such as `+0.0626 to +0.0820`; nothing if none is known."""
    effects = [answer.verdict.effect.mean for answer in answers if answer.verdict.effect is not None]
    if not effects:
        return ""
    low, high = (signed(value) for value in (min(effects), max(effects)))
    return low if len(effects) == 1 else f"{low} each" if low == high else f"{low} to {high}"


def tally(answers: Sequence[Answer]) -> str:
    """Return several comparisons as a person would say them: how many have which answer, and few of them by name."""
    other, unit = against(answers), answers[0].contrast.rule.unit
    parts: list[str] = []
    for word, mine in groups(answers):
        verb = f"make{'s' if len(mine) == 1 else ''}" if word.startswith("no ") else "is" if len(mine) == 1 else "are"
        span, doubted = reach(mine), sum(answer.verdict.doubted is not None for answer in mine)
        named = "; ".join(short_name(answer, other) for answer in mine) if len(mine) <= FEW else ""
        which = "" if doubted == len(mine) else f"{doubted} of these "
        why = f"{which}only because a best rate is at the edge of its grid or runs are missing" if doubted else ""
        numbers = f"{span} {unit}" if span and not parts else span
        details = "; ".join(part for part in (": ".join(part for part in (numbers, named) if part), why) if part)
        parts.append(f"{len(mine)} {verb} {word}" + (f" ({details})" if details else ""))
    what = "methods" if other else "comparisons"
    compared = f"{len(answers)} {what}"
    none = f"{f'neither {what[:-1]}' if len(answers) == 2 else f'none of {compared}'} is better"
    none += f" than {other}" if other else ""
    start = "" if answers_of(answers, "better") else f"{none}; "
    listed = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"{start}{listed}" if start else f"of {compared}{f' against {other}' if other else ''}, {listed}"


def answers_of(answers: Sequence[Answer], word: Word) -> list[Answer]:
    """Return the comparisons with an answer."""
    return [answer for answer in answers if answer.verdict.word == word]


def is_of_subject(answer: Answer, subject: str) -> bool:
    """Return whether a method, or a variant of it such as `MyRule, equal angle`, is compared with another."""
    first = [name for name, weight in answer.contrast.weights.items() if weight > 0]
    return any(name == subject or name.startswith(f"{subject}, ") for name in first)


def headline(campaign: Campaign, analysis: Analysis, data: dict[str, Any]) -> list[str]:
    """Return the answer to each question in a sentence; the first names the scale. Controls have none.

    In a campaign about one method, only its own comparisons are said, each in a sentence.
    """
    said = []
    for answers in analysis.questions().values():
        asked = [answer for answer in answers if not answer.contrast.control]
        if campaign.subject:
            said += [sentence(analysis, answer) for answer in asked if is_of_subject(answer, campaign.subject)]
        elif len(asked) == 1:
            said.append(sentence(analysis, asked[0]))
        elif asked:
            said.append(tally(asked))
    untuned = "" if campaign.tuned else ", with untuned rates"
    sentences = [f"On {scale_of(data)}{untuned}, {said[0]}.", *said[1:]] if said else []
    return sentences[:1] + [f"{text[0].upper()}{text[1:]}." for text in sentences[1:]]


def p_text(value: float | None) -> str:
    """Return a p-value; one below 0.001 rests on tails that few seeds do not show."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.2g}"


def number(value: float | None, digits: int = 4) -> str:
    """Return fixed digits, or a dash for what was not measured."""
    return "–" if value is None or math.isnan(value) else "never" if math.isinf(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a share as a whole percentage."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.0f}%"


def mean_sd(values: np.ndarray) -> str:
    """Return `2.4870 ± 0.0210`, mean and standard deviation over seeds; a dash if a run has no result."""
    if values.size == 0 or not np.isfinite(values).all():  # the mean of survivors is not a result of the arm
        return "–"
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if values.size > 1 else "")
