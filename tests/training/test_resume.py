"""Killed at any moment and resumed to the same bits; and what a resume refuses to load."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PLACES, ROOT, Child, Undisturbed, count_rows, flags, killed, outcome, small, start, wait_for_rows

from ngpt.config import Runtime
from ngpt.doctor import examine, runs_in
from ngpt.errors import InputError
from ngpt.optim.muon import SimpleMuon
from ngpt.training import environment
from ngpt.training.record import CHECKPOINT, WEIGHTS, read_metrics, read_record
from ngpt.training.trainer import train


@pytest.mark.parametrize("deaths", [13, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("seed", [0, 1])
def test_kill_9_and_resume_ends_in_the_same_bits(
    data: str, tmp_path: Path, undisturbed: Undisturbed, optimizer: str, seed: int, deaths: int
) -> None:
    """52 deaths, 200 in the slow mode, after a step, inside a row, before and after a checkpoint takes its place.

    After each the doctor finds no damaged file.
    """
    ramp: dict[str, Any] = {"momentum_start": 0.5, "normuon": "rows"} if optimizer == "muon" else {}
    config = small(data, optimizer=optimizer, steps=5 * deaths, seed=seed, **ramp)
    generator = random.Random(f"{optimizer} {seed} {deaths}")
    for number in range(deaths):
        place = generator.choice(PLACES)
        count = generator.randint(1, 2 if "rename" in place else 4)
        child = Child(flags(config, tmp_path / "runs", "--resume"), tmp_path / "errors", (place, count))
        assert child.exit_code() == -signal.SIGKILL, (number, place, count)
        (killed_run,) = runs_in(tmp_path / "runs")
        status, damage, _ = examine(killed_run)
        assert status == "killed" and not damage, (number, place, damage)
    folder, _ = start(config, tmp_path / "runs", resume=True)
    assert outcome(folder) == undisturbed(config)
    assert [row["step"] for row in read_metrics(folder)] == list(range(1, 5 * deaths + 1))
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()].count(folder.name) == 1
    assert not (folder / CHECKPOINT).exists()


SPHERE: list[dict[str, Any]] = [
    {"normuon": "short-axis", "geodesic_muon": "lr-norm", "weight_decay": 0.5, "cautious_wd": True,
     "momentum_transport": "parallel"},
    {"normuon": "rows", "geodesic_muon": "lr-norm", "match_step": "angle", "tangent": "before",
     "momentum_transport": "project", "arch": "ngpt"},
    {"normuon": "short-axis", "match_step": "rms", "tangent": "both", "momentum_transport": "parallel",
     "weight_decay": 0.5, "cautious_wd": True},
    {"geodesic_muon": "lr", "momentum_transport": "rotate"},
    {"vocab_rule": "rmnp", "constraint": "frobenius", "max_angle": 0.05, "normuon": "rows", "normuon_matrices": "mlp"},
    {"optimizer": "ngpt.rules:EmaNesterov"},
    {"tail_ema_steps": 3, "tail_ema_start": 0.25},
    {"optimizer": "ngpt.rules:Kaon"},
    {"normuon": "short-axis", "geodesic_muon": "lr-norm", "dtype": "bfloat16", "arch": "gated-literal"},
    {"arch": "gated-literal", "orthogonalizer": "newton-schulz-literal"},
]  # fmt: skip


@pytest.mark.parametrize("at", [4, 8])
@pytest.mark.parametrize("options", SPHERE, ids=lambda options: "-".join(map(str, options.values())))
def test_every_state_and_the_phase_of_the_projection_survive(
    data: str, tmp_path: Path, undisturbed: Undisturbed, options: dict[str, Any], at: int
) -> None:
    """A checkpoint every 3 steps, a projection every 5; telemetry at step 8 still reports the latest one."""
    config = small(data, **options)
    folder = killed(config, tmp_path / "runs", at)
    start(config, tmp_path / "runs", resume=True)
    assert outcome(folder) == undisturbed(config)


@pytest.mark.parametrize("lost", ["second_momentum_buffer", "momentum_buffer"])
def test_a_lost_state_would_be_seen(
    data: str, tmp_path: Path, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A resumed run that starts an average anew ends in other bits."""
    config = small(data, **SPHERE[0])
    folder = killed(config, tmp_path / "runs")
    load = SimpleMuon.load_state_dict

    def forget(optimizer: SimpleMuon, content: dict[str, Any]) -> None:
        load(optimizer, content)
        for state in optimizer.state.values():
            state[lost].zero_()

    monkeypatch.setattr(SimpleMuon, "load_state_dict", forget)
    start(config, tmp_path / "runs", resume=True)
    assert outcome(folder) != undisturbed(config)


def test_resume_leaves_what_is_not_its_own(data: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Jupyter's folder, an editor's file, a user's hidden one; only the leftovers of a kill go."""
    config = small(data)
    folder = killed(config, tmp_path / "runs")
    (folder / ".ipynb_checkpoints").mkdir()
    mine = [".notes", ".record.json.swp", ".ipynb_checkpoints/x", "plot.png"]
    for name in mine:
        (folder / name).write_text("mine")
    (folder / f".{CHECKPOINT}.123").write_text("half")
    start(config, tmp_path / "runs", resume=True)
    assert outcome(folder) == undisturbed(config)
    assert {(folder / name).read_text() for name in mine} == {"mine"} and not (folder / f".{CHECKPOINT}.123").exists()


def test_what_has_lost_its_record_is_kept(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(data)
    folder, _ = start(config, tmp_path / "runs")
    weights = (folder / WEIGHTS).read_bytes()
    (folder / "record.json").unlink()
    start(config, tmp_path / "runs", resume=True)
    assert "is kept as" in capsys.readouterr().err
    assert folder.with_name(f"{folder.name}.1").joinpath(WEIGHTS).read_bytes() == weights


@pytest.mark.parametrize("ignored", [False, True])
def test_the_end_of_a_terminal_stops_a_run_unless_it_is_to_be_ignored(
    data: str, tmp_path: Path, undisturbed: Undisturbed, ignored: bool
) -> None:
    """Ignored as under nohup."""
    config = small(data)

    def hang_up(step: int, _: float) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        folder, record = start(config, tmp_path, hang_up)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (record.status, record.steps) == (("done", 12) if ignored else ("killed", 4))
    start(config, tmp_path, resume=True)
    assert outcome(folder) == undisturbed(config)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_from_outside_at_a_random_moment(
    data: str, tmp_path: Path, undisturbed: Undisturbed, number: signal.Signals
) -> None:
    config = small(data, steps=100)
    generator = random.Random(number)
    for _ in range(2):
        target = count_rows(tmp_path / "runs") + generator.randint(5, 20)
        child = Child(flags(config, tmp_path / "runs", "--resume"), tmp_path / "errors")
        wait_for_rows(tmp_path / "runs", target)
        assert child.process.pid is not None
        os.kill(child.process.pid, number)
        assert child.exit_code() == (130 if number == signal.SIGTERM else -number)
    folder, _ = start(config, tmp_path / "runs", resume=True)
    assert outcome(folder) == undisturbed(config)


def test_ctrl_c_saves_and_says_so(data: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """The real command, interrupted; a second process continues it."""
    config = small(data, steps=100)
    arguments = [
        sys.executable,
        str(ROOT / "train_architectural.py"),
        *flags(config, tmp_path / "runs", "--name", "A b"),
    ]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_rows(tmp_path / "runs", 4)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    (folder,) = (tmp_path / "runs").glob("muon-*")
    assert (process.returncode, errors) == (130, "")
    assert output.splitlines()[-1] == str(folder) and "--resume" in output
    record = read_record(folder)
    assert (record.status, record.name) == ("killed", "A b")
    steps = [row["step"] for row in read_metrics(folder)]
    assert steps == list(range(1, record.steps + 1)) and 4 <= record.steps < 100
    assert (folder / CHECKPOINT).is_file() and not (folder / WEIGHTS).exists()
    raw = json.loads((folder / "record.json").read_text())
    assert {"final_val_loss", "final_val_bpb"}.isdisjoint(raw) and "final" not in raw["weights_sha256"]

    resumed = []
    start(config, tmp_path / "runs", lambda step, _: resumed.append(step), resume=True)
    assert resumed[0] == record.steps + 1, "an interrupted run loses no step"
    assert outcome(folder) == undisturbed(config)


@pytest.mark.parametrize("second", ["in the step", "in the checkpoint"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once_and_loses_nothing_written(
    data: str,
    tmp_path: Path,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    second: str,
) -> None:
    """In step 8, two after a checkpoint, or while the first signal's checkpoint is written."""
    config, reached, flush = small(data), [], os.fsync

    def once(_: int) -> None:
        monkeypatch.setattr(os, "fsync", flush)
        os.kill(os.getpid(), number)

    def interrupt(step: int, _: float) -> None:
        reached.append(step)
        if step == 8:
            os.kill(os.getpid(), number)
            if second == "in the step":
                os.kill(os.getpid(), number)
            else:
                monkeypatch.setattr(os, "fsync", once)

    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "runs", interrupt, save_every=3)
    monkeypatch.undo()
    assert reached == list(range(1, 9))
    (folder,) = runs_in(tmp_path / "runs")
    assert not examine(folder)[1]
    resumed: list[int] = []
    start(config, tmp_path / "runs", lambda step, _: resumed.append(step), resume=True)
    assert resumed[0] == 7 and outcome(folder) == undisturbed(config)


LONG_STEP = """
import hashlib, sys
from ngpt.command import parse
from ngpt.training import environment, trainer

environment.GRACE_SECONDS = 0.5
config, runtime = parse(sys.argv[1:])

def block(step, loss):
    if step == 5:
        print("inside", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in one call: no handler of Python's runs

trainer.train(config, runtime, block)
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_acts_inside_a_step_that_does_not_end(
    data: str, tmp_path: Path, undisturbed: Undisturbed, signals: int
) -> None:
    config = small(data)
    arguments = [sys.executable, "-c", LONG_STEP, *flags(config, tmp_path / "runs", "--save-every", "3")]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "inside\n"
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=15)
    (folder,) = runs_in(tmp_path / "runs")
    assert process.returncode == 130, errors
    record = read_record(folder)
    assert record.status == "killed" and "inside a long step" in str(record.message)
    assert not examine(folder)[1]
    resumed: list[int] = []
    start(config, tmp_path / "runs", lambda step, _: resumed.append(step), resume=True)
    assert resumed[0] == 4 and outcome(folder) == undisturbed(config)


def test_a_signal_of_the_callers_ends_no_run(
    data: str, tmp_path: Path, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python reports every signal that has a handler, not only those that ask a run to stop."""
    monkeypatch.setattr(environment, "GRACE_SECONDS", 0.1)
    config, seen = small(data), list[int]()

    def raised(step: int, _: float) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGUSR1)
            time.sleep(0.3)

    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        folder, _ = start(config, tmp_path, raised)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1] and outcome(folder) == undisturbed(config)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_step_comes_too_late(
    data: str, tmp_path: Path, undisturbed: Undisturbed, number: signal.Signals
) -> None:
    config = small(data)
    before = signal.getsignal(number)
    folder, _ = start(config, tmp_path, lambda step, _: signal.raise_signal(number) if step == 12 else None)
    assert outcome(folder) == undisturbed(config)
    assert signal.getsignal(number) is before, "the handlers are those of before"


def test_a_resumed_run_keeps_its_threads(data: str, tmp_path: Path) -> None:
    """Another number of threads would add in another order."""
    seen: list[tuple[int, bool]] = []

    def look(step: int, _: float) -> None:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        if step == 2 and len(seen) == 2:
            raise KeyboardInterrupt

    config = small(data, steps=4)
    with pytest.raises(KeyboardInterrupt):
        train(config, Runtime(out=tmp_path, threads=2, progress=False, save_every=1), look)
    _, record = train(config, Runtime(out=tmp_path, threads=1, progress=False, resume=True), look)
    assert seen == [(2, True)] * (2 + 3) and record.threads == 2 and record.status == "done"


def test_a_finished_run_is_not_repeated_by_resume(data: str, tmp_path: Path) -> None:
    config = small(data)
    folder, record = start(config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, found = start(config, tmp_path, lambda *_: pytest.fail("trained again"), resume=True)
    assert (again, found) == (folder, record)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_existing_run_is_set_aside(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(data, steps=2)
    outcomes: list[Any] = []
    for _ in range(3):
        folder, _ = start(config, tmp_path)
        (folder / "mark").write_text(str(len(outcomes)))
        outcomes.append(outcome(folder))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    marks = {path.name: (path / "mark").read_text() for path in tmp_path.glob("muon-*")}
    assert marks == {f"{folder.name}.1": "0", f"{folder.name}.2": "1", folder.name: "2"}
    assert f"{folder}.2" in capsys.readouterr().err.splitlines()[-1]


def test_a_second_process_on_the_same_run_refuses(data: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    config = small(data)
    codes: list[int | None] = []

    def meanwhile(step: int, _: float) -> None:
        if step == 7:
            for more in ([], ["--resume"]):
                codes.append(Child(flags(config, tmp_path / "runs", *more), tmp_path / "errors").exit_code())

    folder, _ = start(config, tmp_path / "runs", meanwhile)
    assert codes == [2, 2] and "another process" in (tmp_path / "errors").read_text()
    assert outcome(folder) == undisturbed(config)


def foreign_file(data: str, folder: Path, tmp_path: Path) -> None:
    done, _ = start(small(data), tmp_path / "other")
    (done / WEIGHTS).rename(folder / CHECKPOINT)


def of_another_seed(data: str, folder: Path, tmp_path: Path) -> None:
    (killed(small(data, seed=1), tmp_path / "other") / CHECKPOINT).rename(folder / CHECKPOINT)


def of_another_arm(data: str, folder: Path, tmp_path: Path) -> None:
    (killed(small(data, lr=0.01), tmp_path / "other") / CHECKPOINT).rename(folder / CHECKPOINT)


def flipped(data: str, folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / CHECKPOINT).read_bytes())
    content[-100] ^= 1
    (folder / CHECKPOINT).write_bytes(content)


def beyond_ascii(data: str, folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "metrics.jsonl").read_bytes())
    content[20] = 0xFF
    (folder / "metrics.jsonl").write_bytes(content)


@pytest.mark.parametrize("replace", [foreign_file, of_another_seed, of_another_arm, flipped, beyond_ascii])
def test_resume_refuses_what_is_not_its_own(
    data: str, tmp_path: Path, replace: Callable[[str, Path, Path], None]
) -> None:
    folder = killed(small(data), tmp_path / "runs")
    replace(data, folder, tmp_path)
    with pytest.raises(InputError) as caught:
        start(small(data), tmp_path / "runs", lambda *_: pytest.fail("trained"), resume=True)
    assert str(folder / ("metrics.jsonl" if replace is beyond_ascii else CHECKPOINT)) in str(caught.value)


def test_the_record_of_another_run_is_not_used(data: str, tmp_path: Path) -> None:
    folder, _ = start(small(data), tmp_path / "runs")
    other, _ = start(small(data, seed=1), tmp_path / "runs")
    (folder / "record.json").write_bytes((other / "record.json").read_bytes())
    for resume in (True, False):
        with pytest.raises(InputError, match=f"record.json: the record of another run, {other.name}; move it away"):
            start(small(data), tmp_path / "runs", resume=resume)


def test_nothing_to_resume_is_said(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = train(small(data), Runtime(out=tmp_path / "runs", threads=1, resume=True))
    assert f"note: nothing to resume in {folder}: the run starts at its first step\n" in capsys.readouterr().err


def test_lost_lines_of_metrics_are_said_and_change_nothing(
    data: str, tmp_path: Path, undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(data)
    folder = killed(config, tmp_path / "runs")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))
    train(config, Runtime(out=tmp_path / "runs", threads=1, resume=True))
    assert "note: 1 lines of" in capsys.readouterr().err
    assert outcome(folder)[3] == undisturbed(config)[3]


@pytest.mark.parametrize("settings", [{"name": "a\nb"}, {"name": "\x1b[31mred"}, {"track_group": ""},
                                      {"track_group": "../evil"}, {"track_group": ".."}])  # fmt: skip
def test_names_that_would_be_shown_wrong_or_lead_elsewhere_are_refused(
    data: str, tmp_path: Path, settings: dict[str, str]
) -> None:
    with pytest.raises(InputError, match="--name|--track-group"):
        start(small(data), tmp_path / "runs", **settings)
    assert not list((tmp_path / "runs").glob("muon*"))
