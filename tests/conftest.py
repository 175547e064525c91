"""One thread for every test: the tensors are small, and sums then have one order. Triton interprets its kernels."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
torch.set_num_threads(1)
settings.register_profile("beside other work", deadline=None)  # how long an example takes depends on what else runs
settings.load_profile("beside other work")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole campaigns take longest: half of their files begin on each of two processes, short tests fill the rest."""
    campaigns = [item for item in items if item.path.parent.name == "campaign"]
    others = [item for item in items if item.path.parent.name != "campaign"]
    first = set(sorted({item.path for item in campaigns})[::2])
    half = len(others) // 2
    begin, go_on = ([item for item in campaigns if (item.path in first) == here] for here in (True, False))
    items[:] = [*begin, *others[:half], *go_on, *others[half:]]


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures of reports that are made in this process undrawn, which take most of a report's time.

    A test that looks at a figure, or at what writing one does, is marked `drawn`.
    """
    style = sys.modules.get("ngpt.campaign.report.style")
    if style is None or request.node.get_closest_marker("drawn") is not None:
        return
    save, ours = style.save, [module for name, module in sys.modules.items() if name.startswith("ngpt.campaign.")]
    for module in [module for module in ours if vars(module).get("save") is save]:
        monkeypatch.setattr(module, "save", lambda figure, path: None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a size that is given with `mount -o remount`; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
