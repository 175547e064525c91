"""Data that change during a campaign: no run is started on them, and the file is named."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mini_campaign import CAMPAIGN

from ngpt.campaign.command import CampaignStudy
from ngpt.campaign.definition.plan import PlannedRun, change_since_planned, digest_of, identify
from ngpt.campaign.execution.execute import Outcome, execute

TEXT = "".join(f"{i} bottles of beer on the wall, {i * 7 % 13} of them green.\n" for i in range(400))


class Ended:
    """A run that has ended without a record in its place, as one of other data does."""

    end_reason = "its process ended with code 0"

    def listen(self) -> None:
        return None


class Launcher:
    """Starts nothing; does something at each start."""

    def __init__(self, at_start: Callable[[], object]) -> None:
        self.started, self.at_start = 0, at_start

    def start(self, *_: Any) -> Ended:
        self.started += 1
        self.at_start()
        return Ended()

    def wait_for_messages(self, jobs: list[Ended]) -> list[Ended]:
        return jobs


def planned(folder: Path) -> list[PlannedRun]:
    """The runs of the campaign, as its command plans them."""
    study = CampaignStudy(CAMPAIGN)
    flags = ["--data", str(folder / "set"), "--steps", "2", "--out", str(folder / "runs")]
    return study.plan(study.parser().parse_args(flags)).tuning_runs()


def carried_out(runs: list[PlannedRun], folder: Path, at_start: Callable[[], object]) -> tuple[Outcome, int]:
    launcher: Any = Launcher(at_start)
    outcome = execute(runs, out=folder / "runs", jobs=2, device="cpu", threads=1, launcher=launcher)
    return outcome, launcher.started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.txt").write_text(TEXT)
    (tmp_path / "set/val.txt").write_text(TEXT[::-1])
    return tmp_path


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda at: (at / "val.txt").write_text("shorter"), "val.txt: changed since the campaign began"),
    "gone": (lambda at: (at / "train.txt").unlink(), "train.txt: changed since the campaign began"),
    "another": (lambda at: (at / "train_2.txt").write_text(TEXT), "train_2.txt: changed since the campaign began"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
def test_no_run_starts_on_other_data(
    change: Callable[[Path], object], reason: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = planned(folder)
    change(folder / "set")
    outcome, started = carried_out(runs, folder, lambda: None)
    assert started == 0 and set(outcome.failures) == {run.name for run in runs}
    assert all(str(folder / "set") in message and reason in message for message in outcome.failures.values())
    assert capfd.readouterr().err.count(reason) == len(runs)


def test_a_run_whose_data_change_as_it_starts_is_not_a_riddle(folder: Path) -> None:
    runs = planned(folder)
    outcome, started = carried_out(runs, folder, lambda: (folder / "set/val.txt").write_text("shorter"))
    assert 1 <= started <= 2 and set(outcome.failures) == {run.name for run in runs}
    assert all("val.txt: changed since the campaign began" in message for message in outcome.failures.values())


def test_data_as_they_were_are_no_reason_to_fail(folder: Path) -> None:
    runs = planned(folder)
    (folder / "set/notes.md").write_text("not read")
    outcome, started = carried_out(runs, folder, lambda: None)
    assert started == len(runs) and set(outcome.failures.values()) == {Ended.end_reason}


def test_a_campaign_begun_again_takes_the_data_as_they_are(folder: Path) -> None:
    runs = planned(folder)
    data = runs[0].config.data
    (folder / "set/val.txt").write_text(TEXT)
    assert change_since_planned(data) is not None
    again = planned(folder)
    assert change_since_planned(data) is None and again[0].config.data == data
    assert again[0].run_id != runs[0].run_id and digest_of(data) == identify(data)
