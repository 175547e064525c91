"""Statements made before any run: question, methods, contrasts and rule; and the plan of the runs."""

from ngpt.campaign.definition.campaign import (
    Arm,
    AtScale,
    Campaign,
    Contrast,
    Method,
    Reading,
    noise_of,
    on_other_batches,
    rates_text,
)
from ngpt.campaign.definition.rule import Prediction, Rule, Word

__all__ = [
    "Arm",
    "AtScale",
    "Campaign",
    "Contrast",
    "Prediction",
    "Method",
    "Reading",
    "Rule",
    "Word",
    "noise_of",
    "on_other_batches",
    "rates_text",
]
