"""Controls for noise from other campaigns, for the report of a campaign that ran none. No torch."""

import math
from pathlib import Path
from typing import Any

from ngpt.campaign.analysis.analyze import Analysis
from ngpt.campaign.analysis.statistics import PairedDifference
from ngpt.campaign.report.index import read_verdicts
from ngpt.campaign.report.words import tokens_of

Line = dict[str, Any]
"""a line of `verdicts.jsonl`, with the fields of `VerdictLine`"""


def controls_of_others(analysis: Analysis, data: dict[str, Any], reports: Path) -> list[Line]:
    """Return the controls in `verdicts.jsonl` with the same preset, architecture, text and number of tokens.

    Empty if the campaign has a control of its own, or if its runs end by the clock.
    """
    own = any(answer.contrast.control for answer in analysis.answers)
    if own or data["training"].get("budget_seconds") is not None:
        return []
    here = {"preset": data["preset"], "data": data["data"], "tokens": tokens_of(data), "arch": data["model"]["arch"]}
    controls = [line for line in read_verdicts(reports) if line["control"] and line["low"] is not None]
    return [line for line in controls if here.items() <= line.items()]


def effect_in(line: Line) -> PairedDifference:
    """Return the effect in a line with its interval; its spread and p-value are not in the file."""
    mean, low, high = (line[name] for name in ("effect", "low", "high"))
    return PairedDifference(mean=mean, sd=math.nan, n=line["seeds"], t_low=low, t_high=high, p=math.nan)
