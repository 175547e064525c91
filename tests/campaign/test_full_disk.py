"""A report whose disk fills or is read-only: one clear line, exit code 2, and every file that was there stays whole."""

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mini_campaign import carry_out

from experiments import muon_lr_sweep
from ngpt.campaign.execution.collect import read_data, write_data
from ngpt.campaign.report import style
from ngpt.campaign.report.figures import draw
from ngpt.campaign.report.style import Figure
from ngpt.errors import InputError, exit_code_of

pytestmark = pytest.mark.drawn

CAMPAIGN = muon_lr_sweep.CAMPAIGN
PUBLISHED = Path(__file__).parents[2] / "reports"
KINDS = ("effects", "loss_against_lr", "loss_against_aux_lr", "differences", "curves", "telemetry")
ORDER = [
    "data/muon_lr_sweep.json",
    *(f"figures/muon_lr_sweep_{kind}.{suffix}" for kind in KINDS for suffix in ("png", "svg")),
    "MUON_LR_SWEEP_REPORT.md", "verdicts.jsonl", "README.md",
]  # fmt: skip
"""In which a report's files are written."""

PAGE = 4096


def once(drawing: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
    """A drawing that is made at its first use; all reports here have the same data."""
    made: list[Figure | None] = []

    def again(*arguments: Any) -> Figure | None:
        if not made:
            made.append(drawing(*arguments))
        return made[0]

    return again


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    """Figures are drawn and rendered once, and written anew in every report."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in vars(draw) if name.startswith("draw_") and name != "draw_figures"]:
            patch.setattr(draw, name, once(getattr(draw, name)))
        patch.setattr(style, "rendered", functools.cache(style.rendered))
        yield


def rebuild(reports: Path) -> int:
    """The exit code of building the report from its data."""
    arguments = ["--report-only", "--out", str(reports.parent / "none"), "--reports", str(reports)]
    return exit_code_of(lambda: carry_out(CAMPAIGN, arguments))


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def whole(reports: Path, published: dict[str, bytes]) -> set[str]:
    """The names of the files that are there, each as in `published`; nothing else is there."""
    found = {str(path.relative_to(reports)): path.read_bytes() for path in reports.rglob("*") if path.is_file()}
    assert found == {name: published[name] for name in found}
    return set(found)


@pytest.fixture
def published(small_disk: Path) -> dict[str, bytes]:
    """Content by name of each file of the report, built on the disk with room enough."""
    remount(small_disk, "size=10m")
    reports = small_disk / "r"
    (reports / "data").mkdir(parents=True)
    shutil.copy(PUBLISHED / ORDER[0], reports / "data")
    assert rebuild(reports) == 0
    assert (reports / "MUON_LR_SWEEP_REPORT.md").read_text() == (PUBLISHED / "MUON_LR_SWEEP_REPORT.md").read_text()
    return {name: (reports / name).read_bytes() for name in ORDER}


def test_a_report_on_a_disk_that_fills(
    small_disk: Path, published: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """It fills in each of its files in turn; what was written before is whole, and with room the rest follows."""
    reports = small_disk / "r"
    for count, name in enumerate(ORDER[1:], 1):
        for later in ORDER[1:]:
            (reports / later).unlink(missing_ok=True)
        remount(small_disk, f"size={sum(-(-len(published[before]) // PAGE) for before in ORDER[:count]) * PAGE}")
        assert rebuild(reports) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line == f"error: {reports / name}: could not be written: No space left on device"
        assert whole(reports, published) == set(ORDER[:count])
        remount(small_disk, "size=10m")
    assert rebuild(reports) == 0 and whole(reports, published) == set(ORDER)


@pytest.mark.parametrize("almost", [False, True])
def test_a_report_made_again_on_a_full_disk_stays_as_it_was(
    small_disk: Path, published: dict[str, bytes], capsys: pytest.CaptureFixture[str], almost: bool
) -> None:
    """With no room at all, or with one page less than the largest of the files that are written again."""
    reports = small_disk / "r"
    pages = {name: -(-len(content) // PAGE) for name, content in published.items()}
    free = max(pages[name] for name in ORDER[1:]) - 1 if almost else 0
    remount(small_disk, f"size={(sum(pages.values()) + free) * PAGE}")
    assert rebuild(reports) == 2 and "No space left on device" in capsys.readouterr().err
    assert whole(reports, published) == set(ORDER)
    data = read_data(CAMPAIGN, reports)
    with pytest.raises(InputError, match=f"{ORDER[0]}: could not be written: No space left"):
        write_data(reports, data | {"command": "another"})
    assert whole(reports, published) == set(ORDER)


def test_a_read_only_folder_is_one_clear_line(
    small_disk: Path, published: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    reports = small_disk / "r"
    remount(small_disk, "ro")
    assert rebuild(reports) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {small_disk}") and line.endswith("Read-only file system")
    assert whole(reports, published) == set(ORDER)
