"""Optimizers on the hypersphere: gated nGPT models, Muon and its relatives, and campaigns that can be believed."""

import importlib
from typing import TYPE_CHECKING, Any

import ngpt.code  # noqa: F401 (before all others: it notes which code this process is about to load)

if TYPE_CHECKING:
    from ngpt.loading import load_run as load_run
    from ngpt.optim.muon import SimpleMuon as SimpleMuon
    from ngpt.optim.projection import LazyProjection as LazyProjection

EXPORTS = {
    "SimpleMuon": "ngpt.optim.muon", "LazyProjection": "ngpt.optim.projection", "load_run": "ngpt.loading",
}  # fmt: skip
"""Names that `from ngpt import ...` offers, with the module of each, which is imported at first use."""


def __dir__() -> list[str]:
    """Return what there is to import, for completion in a shell."""
    return sorted(EXPORTS)


def __getattr__(name: str) -> Any:
    """Import an export at first use. Raises AttributeError for any other name."""
    if name not in EXPORTS:
        raise AttributeError(f"module 'ngpt' has no attribute {name!r}")
    return getattr(importlib.import_module(EXPORTS[name]), name)
