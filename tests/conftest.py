"""One thread for every test: the tensors are small, and sums then have one order. Triton interprets its kernels."""

import os

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole campaigns take longest: half of their files begin on each of two processes, short tests fill the rest."""
    campaigns = [item for item in items if item.path.parent.name == "campaign"]
    others = [item for item in items if item.path.parent.name != "campaign"]
    first = set(sorted({item.path for item in campaigns})[::2])
    half = len(others) // 2
    begin, go_on = ([item for item in campaigns if (item.path in first) == here] for here in (True, False))
    items[:] = [*begin, *others[:half], *go_on, *others[half:]]
