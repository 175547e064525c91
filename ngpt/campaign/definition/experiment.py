"""Statements that every experiment file makes, whether it compares methods or checks gates. No torch."""

import dataclasses
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Statements:
    """The statements of every experiment file, made before its runs and, the last three, after them."""

    name: str
    """file name of the experiment, the runner and the collected data"""
    title: str
    question: str
    """one sentence"""
    claim: str
    """what is predicted or measured, how and why; markdown"""
    preset: str = "tiny"
    fields: Mapping[str, Any] = field(default_factory=dict)
    """configuration fields shared by all runs"""
    text: str = field(default="", repr=False)
    """name of the text that the next three are about; empty: that of the runs without --data"""
    reading: str = ""
    """what the results show, written once they were there; a paragraph of markdown without numbers"""
    does_not_show: str = ""
    """what a reader could take from the results, and may not; like `reading`"""
    follows: str = ""
    """what follows from them: a decision, or the next experiment; like `reading`"""

    def statements(self) -> dict[str, Any]:
        """Return these statements by name, for another experiment with the same."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Statements)}


@dataclass(frozen=True, kw_only=True)
class Experiment(Statements, ABC):
    """A question with its answer's rule, both fixed before any run."""

    @property
    @abstractmethod
    def _identity(self) -> tuple[Any, ...]:
        """Everything that decides a result, and none of the prose."""

    @property
    def digest(self) -> str:
        """Digest of everything that decides a result; rewording the experiment does not change it."""
        return hashlib.sha256(repr(self._identity).encode()).hexdigest()[:16]

    @property
    def report_name(self) -> str:
        """`MUON_LR_SWEEP_REPORT.md` for muon_lr_sweep."""
        return f"{self.name.upper()}_REPORT.md"


def slug(name: str) -> str:
    """Return a name as that of a file: `MyRule` -> my_rule.

    >>> slug("MyRule, half memory")
    'my_rule_half_memory'
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"\W+", "_", apart).strip("_").lower()
