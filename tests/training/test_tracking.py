"""Trackers: what they are told, what happens when they fail or hang, and the real ones read back where installed.

`pip install -e '.[trackio,wandb,tensorboard]'` first, or the tests of the real ones are skipped. None needs a network.
"""

import json
import re
import sqlite3
import struct
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import Undisturbed, flags, outcome, ranks_of, small, start

from experiments import INDEX
from ngpt import tracking
from ngpt.campaign.definition.plan import PlannedRun
from ngpt.campaign.execution.execute import execute
from ngpt.campaign.execution.options import launch_settings
from ngpt.config import RunConfig, Runtime
from ngpt.doctor import examine
from ngpt.errors import InputError
from ngpt.training.record import read_metrics, read_record

FAKE = """
    import json, os, time
    from pathlib import Path

    HERE = Path(__file__).parent

    def note(what, **content):
        with (HERE / "said.jsonl").open("a") as file:
            print(json.dumps({"what": what, **content}), file=file)
        plan = HERE / f"{what}.plan"  # what to do at this point instead
        if plan.exists():
            exec(plan.read_text())

    class Fake:
        def __init__(self, run):
            note("start", id=run.id, name=run.name, group=run.group, config=run.config, logged=run.logged)

        def log(self, step, values):
            note("log", step=step, values=values)

        def finish(self, summary):
            note("finish", summary=summary)
    """


class FakeTracker:
    """The tracker `trackio`, replaced by one that writes down what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "fake_tracker.py").write_text(textwrap.dedent(FAKE))

    def fails(self, where: str, code: str) -> None:
        (self.folder / f"{where}.plan").write_text(code)

    def said(self, what: str) -> list[dict[str, Any]]:
        path = self.folder / "said.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [content for line in lines if (content := json.loads(line))["what"] == what]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(tracking.TRACKERS, "trackio", "fake_tracker:Fake")
    monkeypatch.setattr(tracking, "require_installed", lambda kind: None)
    return FakeTracker(folder)


def interrupted(config: RunConfig, out: Path, **runtime: Any) -> Path:
    """A run that was interrupted in step 8, after its checkpoint of step 6 and its row of step 7."""

    def interrupt(step: int, _: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(config, out, interrupt, save_every=3, **runtime)
    (folder,) = out.glob(f"*-s{config.seed}")
    return folder


# --- any tracker -----------------------------------------------------------------------------------------------------


def test_a_tracker_is_told_configuration_rows_and_summary(
    data: str, tmp_path: Path, fake: FakeTracker, undisturbed: Undisturbed, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small(data)
    folder, record = start(config, tmp_path / "runs", name="a name", track="trackio", track_group="some runs")
    assert outcome(folder) == undisturbed(config) and examine(folder) == ("done", [], [])
    (begun,) = fake.said("start")
    assert (begun["id"], begun["name"], begun["group"], begun["logged"]) == (folder.name, "a name", "some runs", 0)
    expected = {"n_embd": 32, "lr": 0.02, "optimizer": "muon", "seed": 0, "preset": "tiny", "digest": record.digest}
    assert expected.items() <= begun["config"].items()
    assert [{"step": one["step"], **one["values"]} for one in fake.said("log")] == read_metrics(folder)
    (ended,) = fake.said("finish")
    assert ended["summary"]["status"] == "done" and ended["summary"]["final_val_loss"] == record.final_val_loss
    assert capfd.readouterr().err == ""


def test_a_resumed_run_goes_on_after_the_rows_already_told(data: str, tmp_path: Path, fake: FakeTracker) -> None:
    folder = interrupted(small(data), tmp_path, track="trackio")
    assert [one["step"] for one in fake.said("log")] == list(range(1, 8))
    assert [one["summary"]["status"] for one in fake.said("finish")] == ["killed"]
    again, _ = start(small(data), tmp_path, track="trackio", resume=True)
    assert again == folder
    assert [one["logged"] for one in fake.said("start")] == [0, 7]
    assert [one["step"] for one in fake.said("log")] == list(range(1, 13)), "step 7, made twice, is told once"
    assert [one["summary"]["status"] for one in fake.said("finish")] == ["killed", "done"]
    start(small(data), tmp_path, track="trackio", resume=True)
    assert len(fake.said("start")) == 2, "a finished run is left alone"
    start(small(data), tmp_path, track="trackio")
    assert [one["logged"] for one in fake.said("start")] == [0, 7, 0], "a new run of the same id starts over"


@pytest.mark.parametrize("where", ["start", "log", "finish"])
@pytest.mark.parametrize(
    ("code", "complaint"),
    [("raise ValueError('no such\\nserver')", "ValueError: no such"), ("os._exit(7)", "its process ended with code 7"),
     ("os.kill(os.getpid(), 9)", "its process ended with code -9")],
)  # fmt: skip
def test_a_tracker_that_fails_is_one_line(
    data: str, tmp_path: Path, fake: FakeTracker, undisturbed: Undisturbed, capfd: pytest.CaptureFixture[str],
    where: str, code: str, complaint: str,
) -> None:  # fmt: skip
    fake.fails(where, code)
    folder, _ = start(small(data), tmp_path / "runs", track="trackio")
    assert outcome(folder) == undisturbed(small(data)) and read_record(folder).status == "done"
    captured = capfd.readouterr()
    assert captured.err == f"warning: --track trackio: {complaint}; the run goes on without it\n"
    assert fake.said(where) and captured.out == ""


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_a_tracker_that_hangs_delays_the_end_by_a_bound(
    data: str, tmp_path: Path, fake: FakeTracker, undisturbed: Undisturbed, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, where: str,
) -> None:  # fmt: skip
    fake.fails(where, "print('talk', flush=True); time.sleep(100)")
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 1.0)
    begin = time.monotonic()
    folder, _ = start(small(data), tmp_path / "runs", track="trackio")
    assert time.monotonic() - begin < 20
    assert outcome(folder) == undisturbed(small(data))
    expected = "warning: --track trackio: not finished after 1 s; the run goes on without it\n"
    assert capfd.readouterr() == ("", expected)


def test_a_tracker_that_cannot_be_started_is_one_line(
    data: str, tmp_path: Path, fake: FakeTracker, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    assert start(small(data), tmp_path / "runs", track="trackio")[1].status == "done"
    assert re.fullmatch(
        r"warning: --track trackio: .*No such file.*; the run goes on without it\n", capfd.readouterr().err
    )


def test_a_dead_trainer_ends_its_tracker(data: str, tmp_path: Path, fake: FakeTracker) -> None:
    """Its end of the pipe closes, however it died."""
    folder = interrupted(small(data), tmp_path)
    tracker = tracking.RunTracker("trackio", folder, None)
    tracker.start(3)
    assert tracker.process is not None and tracker.process.stdin is not None
    tracker.process.stdin.close()
    assert tracker.process.wait(30) == 0
    assert [one["step"] for one in fake.said("log")] == [4, 5, 6, 7] and len(fake.said("finish")) == 1


def test_a_missing_package_is_said_before_the_run(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--track wandb needs the package wandb: pip install -e '.\[wandb\]'"):
        start(small(data), tmp_path / "runs", track="wandb")
    assert not (tmp_path / "runs").exists()


def test_a_folder_called_like_the_package_is_not_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, wandb leaves such a folder in the working directory."""
    (tmp_path / "namesake_of_a_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="needs the package"):
        tracking.require_installed("namesake_of_a_tracker")
    tracking.require_installed("json")
    tracking.require_installed(None)


def test_a_group_without_a_tracker_is_refused() -> None:
    with pytest.raises(InputError, match="--track-group has no effect without --track"):
        Runtime(track_group="x")


def test_runners_take_the_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    study = INDEX[0]
    given = study.parser().parse_args(["--device", "cpu", "--track", "wandb"])
    found: list[Any] = [None, sys.__spec__]
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: found.pop(0))
    with pytest.raises(InputError, match="--track wandb needs the package wandb"):
        launch_settings(given, 2, study.name)
    expected = {"jobs": 2, "device": "cpu", "threads": 1, "track": "wandb", "track_group": study.name}
    assert launch_settings(given, 2, study.name) == expected
    without = launch_settings(study.parser().parse_args(["--device", "cpu"]), 2, study.name)
    assert without == {"jobs": 2, "device": "cpu", "threads": 1}


def test_a_campaign_groups_its_runs(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processes of its runs, by a package that is called like trackio."""
    package = tmp_path / "packages" / "trackio"
    package.mkdir(parents=True)
    text = """
        import json
        from pathlib import Path

        class init:
            def __init__(self, **given):
                self.said = [{name: given[name] for name in ("project", "name", "group", "resume")}]

            def log(self, values, step):
                self.said.append(step)

            def finish(self):
                path = Path(__file__).with_name(self.said[0]["name"] + ".json")
                path.write_text(json.dumps(self.said))
        """
    (package / "__init__.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(package.parent)
    runs = [PlannedRun.of("comparison", "a method", seed, small(data, seed=seed)) for seed in (0, 1)]
    settings: dict[str, Any] = {"device": "cpu", "threads": 1, "track": "trackio", "track_group": "a campaign"}
    outcome_of_all = execute(runs, out=tmp_path / "runs", jobs=2, **settings)
    assert not outcome_of_all.failures
    for run in runs:
        begun, *steps = json.loads((package / f"{run.run_id}.json").read_text())
        assert begun == {"project": "ngpt", "name": run.run_id, "group": "a campaign", "resume": "never"}
        assert steps == [*range(1, 13), 12]


# --- the real ones ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tracked_twice(data: str, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Interrupt a run in step 8 and resume it, under a tracker; returns its folder."""

    def of(kind: str) -> Path:
        options: dict[str, Any] = {"track": kind, "track_group": "a group", "name": "a name"}
        interrupted(small(data), tmp_path / "runs", **options)
        return start(small(data), tmp_path / "runs", resume=True, **options)[0]

    yield of


def test_trackio_has_the_run(
    tracked_twice: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], undisturbed: Undisturbed, data: str,
) -> None:  # fmt: skip
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder = tracked_twice("trackio")
    assert outcome(folder) == undisturbed(small(data)) and capfd.readouterr() == ("", "")
    with sqlite3.connect(tmp_path / "trackio" / "ngpt.db") as database:
        rows = database.execute("SELECT run_id, run_name, step, metrics FROM metrics ORDER BY id").fetchall()
        configs = database.execute("SELECT config FROM configs").fetchall()
    database.close()
    assert len({row[0] for row in rows}) == 1 and {row[1] for row in rows} == {folder.name}
    logged = [(step, json.loads(text)) for _, _, step, text in rows]
    losses = [(step, values["loss"]) for step, values in logged if "loss" in values]
    assert losses == [(row["step"], row["loss"]) for row in read_metrics(folder)]
    summary = logged[-1][1]
    assert logged[-1][0] == 12 and summary["summary/final_val_loss"] == read_record(folder).final_val_loss
    config = json.loads(configs[-1][0])
    assert (config["_Group"], config["lr"], config["name"]) == ("a group", 0.02, "a name")


@pytest.mark.filterwarnings("ignore")  # of TensorBoard's imports
def test_tensorboard_has_the_run(
    tracked_twice: Callable[[str], Path], capfd: pytest.CaptureFixture[str], undisturbed: Undisturbed, data: str
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tracked_twice("tensorboard")
    assert outcome(folder) == undisturbed(small(data)) and capfd.readouterr() == ("", "")
    events = EventAccumulator(str(folder.parent / "tensorboard" / "a group" / folder.name))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(row["step"], row["loss"]) for row in read_metrics(folder)]
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [value for _, value in found] == pytest.approx([loss for _, loss in expected])
    assert events.Scalars("summary/final_val_loss")[-1].value == pytest.approx(read_record(folder).final_val_loss)
    text = events.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert '"lr": 0.02' in text and folder.name in text


@pytest.mark.filterwarnings("ignore")
def test_only_the_first_rank_tracks(data: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = flags(small(data), tmp_path / "runs", "--track", "tensorboard")
    assert [child.exit_code() for child in ranks_of(words, tmp_path / "errors", 2)] == [0, 0]
    assert len(list((tmp_path / "runs" / "tensorboard").rglob("events.*"))) == 1


def records_of(path: Path) -> Iterator[bytes]:
    """The records in a file of wandb, which has LevelDB's format: blocks of 32 KiB with pieces of records."""
    content, at, piece = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = -at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        piece += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield piece
            piece = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_has_the_run_offline(
    tracked_twice: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], undisturbed: Undisturbed, data: str,
) -> None:  # fmt: skip
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    folder = tracked_twice("wandb")
    assert outcome(folder) == undisturbed(small(data)) and capfd.readouterr() == ("", "")
    rows, exits, summary = [], [], dict[str, Any]()
    for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
        for content in records_of(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.HasField("run"):
                run = record.run
                assert (run.run_id, run.run_group, run.project) == (folder.name, "a group", "ngpt")
                assert run.display_name == "a name"
                config = {item.key: json.loads(item.value_json) for item in run.config.update}
                assert not config or config["lr"] == 0.02
            elif record.HasField("history"):
                items = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
                rows.append((items["_step"], items["loss"]))
            elif record.HasField("summary"):
                summary |= {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.summary.update}
            elif record.HasField("exit"):
                exits.append(record.exit.exit_code)
    assert rows == [(row["step"], row["loss"]) for row in read_metrics(folder)]
    assert exits == [1, 0], "killed, then done"
    assert summary["final_val_loss"] == read_record(folder).final_val_loss
