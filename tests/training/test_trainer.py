"""One run, whole: the same bits again, through kills and resumes, past bad gradients, and a record that says so."""

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ngpt.command import main
from ngpt.config import RunConfig, Runtime, from_dict, resolve, to_flags
from ngpt.data.shards import write_shard
from ngpt.errors import InputError, exit_code_of
from ngpt.model import build_model
from ngpt.training import metrics, trainer
from ngpt.training.checkpoint import pack, tensors_sha256
from ngpt.training.record import RunRecord, read_metrics, read_record
from ngpt.training.trainer import CHECKPOINT, WEIGHTS, train

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = dict(
    n_embd=32, n_layer=1, n_head=4, seq_len=32, batch_size=4, steps=12, lr=0.02, aux_lr=0.01,
    lazy_proj_freq=5, eval_tokens=512, eval_every=5, telemetry_every=4,
)  # fmt: skip
VAL = ["the first document of the validation text\n" * 9, "größer ≤ and the second " * 20]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of text, small and the same on every machine."""
    folder = tmp_path_factory.mktemp("data")
    generator = random.Random(0)
    words = [generator.choice(["the", "unit", "sphere", "of", "a gate", "step\n"]) for _ in range(5000)]
    (folder / "train.txt").write_text(" ".join(words))
    (folder / "val.txt").write_text("<|endoftext|>".join(VAL), encoding="utf-8")
    return str(folder)


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """A run sets threads and determinism for its whole process."""
    before, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.set_num_threads(threads)


def small(data: str, **fields: Any) -> RunConfig:
    """A run of a tenth of a second."""
    idle = {"lazy_proj_freq"} if fields.get("arch") == "gpt" else {"steps"} if "time_budget_seconds" in fields else set()
    values = {"data": data} | {name: value for name, value in SMALL.items() if name not in idle} | fields
    return resolve(seed=values.pop("seed", 0), **values)


def start(
    config: RunConfig, out: Path, progress: trainer.Progress | None = None, **runtime: Any
) -> tuple[Path, RunRecord]:
    return train(config, Runtime(out=out, threads=1, progress=False, **runtime), progress)


def rows(folder: Path) -> list[dict[str, float]]:
    """The metrics without the one column that is not reproducible."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_metrics(folder)]


def outcome(folder: Path) -> tuple[Any, ...]:
    """Everything that two runs of the same bits agree in."""
    record = read_record(folder)
    return record.status, record.steps, record.final_val_loss, record.weights_sha256, record.skipped_steps, rows(folder)


Undisturbed = Callable[[RunConfig], tuple[Any, ...]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The outcome of a run that nothing disturbs, made once for each configuration."""
    known: dict[str, tuple[Any, ...]] = {}

    def of(config: RunConfig) -> tuple[Any, ...]:
        key = " ".join(to_flags(config))
        if key not in known:
            known[key] = outcome(start(config, tmp_path_factory.mktemp("undisturbed"))[0])
        return known[key]

    return of


# --- the same bits ---------------------------------------------------------------------------------------------------

ARMS: list[dict[str, Any]] = [
    {"optimizer": "muon"},
    {"optimizer": "adam"},
    {"arch": "ngpt", "weight_decay": 0.1},
    {"arch": "gpt", "optimizer": "adam", "schedule": "cosine"},
    {"arch": "gated-literal", "dtype": "bfloat16", "steps": 3},
]


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_the_same_command_twice_gives_the_same_bits(
    data: str, tmp_path: Path, undisturbed: Undisturbed, arm: dict[str, Any]
) -> None:
    config = small(data, **arm)
    folder, record = start(config, tmp_path)
    assert outcome(folder) == undisturbed(config)
    assert record.status == "done" and set(record.weights_sha256) == {"first", "final"}
    assert tensors_sha256(load_file(folder / WEIGHTS)) == record.weights_sha256["final"]


def test_arms_are_paired_by_seed_and_seeds_differ(data: str, undisturbed: Undisturbed) -> None:
    """Before the first step two optimizers have the same weights and the same batch, two seeds have neither."""
    first = {
        (optimizer, seed): undisturbed(small(data, optimizer=optimizer, seed=seed))[-1][0]["loss"]
        for optimizer in ("muon", "adam")
        for seed in (0, 1)
    }
    assert first["muon", 0] == first["adam", 0] != first["muon", 1] == first["adam", 1]
    finals = {undisturbed(small(data, optimizer=o, seed=s))[3]["final"] for o, s in first}
    assert len(finals) == 4


NOT_TRAINING = [{"eval_every": 1}, {"eval_every": 1000}, {"telemetry_every": 0}, {"telemetry_every": 1},
                {"log_every": 7}, {"eval_tokens": 32}]  # fmt: skip


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("change", NOT_TRAINING, ids=str)
def test_measuring_does_not_change_training(
    data: str, undisturbed: Undisturbed, change: dict[str, Any], optimizer: str
) -> None:
    """Weights are off the sphere between projections, so that a validation that left them projected would be seen."""
    usual, changed = (undisturbed(small(data, optimizer=optimizer, **fields)) for fields in ({}, change))
    assert changed[3] == usual[3]
    losses = {row["step"]: row["loss"] for row in usual[-1]}
    assert all(losses[row["step"]] == row["loss"] for row in changed[-1])


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_the_projection_frequency_changes_training(data: str, undisturbed: Undisturbed, optimizer: str) -> None:
    finals = {undisturbed(small(data, optimizer=optimizer, lazy_proj_freq=k))[3]["final"] for k in (1, 5, 7)}
    assert len(finals) == 3


# --- killed and resumed ----------------------------------------------------------------------------------------------

PLACES = ["after a step", "inside a row", "before a rename", "after a rename"]


def die_at(place: str, count: int) -> None:
    """Make this process kill itself at the `count`-th passage of a place, without any clean-up."""
    passages = itertools.count(1)

    def passed() -> None:
        if next(passages) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    step, replace, write = trainer.Run._step, os.replace, metrics.MetricsFile.write

    def step_and_die(run: trainer.Run) -> dict[str, float]:
        row = step(run)
        passed()
        return row

    def write_and_die(file: metrics.MetricsFile, row: dict[str, float]) -> None:
        file.file.write(json.dumps(row)[:20])
        file.file.flush()
        passed()
        file.file.seek(file.file.tell() - 20)
        file.file.truncate()
        write(file, row)

    def replace_and_die(old: Path, new: Path) -> None:
        if place == "before a rename" and new.name == CHECKPOINT:
            passed()
        replace(old, new)
        if place == "after a rename" and new.name == CHECKPOINT:
            passed()

    if place == "after a step":
        trainer.Run._step = step_and_die  # type: ignore[method-assign]
    elif place == "inside a row":
        metrics.MetricsFile.write = write_and_die  # type: ignore[method-assign]
    else:
        os.replace = replace_and_die  # type: ignore[assignment]


def command(arguments: list[str], errors: Path, death: tuple[str, int] | None, file_bytes: int | None) -> None:
    """Run the command in this process, with its standard error in a file."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if death is not None:
        die_at(*death)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.exit(exit_code_of(lambda: main(arguments)))


def flags(config: RunConfig, out: Path, *more: str) -> list[str]:
    return [*to_flags(config), "--out", str(out), "--threads", "1", "--save-every", "3", "--no-progress", *more]


class Child:
    """The command in a process of its own; forked from one that has imported torch, so that it starts at once."""

    def __init__(
        self, arguments: list[str], errors: Path, death: tuple[str, int] | None = None, file_bytes: int | None = None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ngpt.training.trainer", "torch._dynamo", "pytest"])
        self.errors = errors
        self.process = context.Process(target=command, args=(arguments, errors, death, file_bytes))
        self.process.start()

    def exit_code(self) -> int | None:
        self.process.join(60)
        return self.process.exitcode


def wait_for_rows(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if sum(path.read_bytes().count(b"\n") for path in out.glob("*/metrics.jsonl")) >= count:
            return
        time.sleep(0.002)
    raise TimeoutError


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("seed", [0, 1])
def test_kill_9_and_resume_ends_in_the_same_bits(
    data: str, tmp_path: Path, undisturbed: Undisturbed, optimizer: str, seed: int
) -> None:
    config = small(data, optimizer=optimizer, steps=24, seed=seed, momentum_start=0.5 if optimizer == "muon" else None)
    generator = random.Random(f"{optimizer} {seed}")
    for number, place in enumerate(generator.sample(PLACES, 4)):
        count = generator.randint(1, 2 if "rename" in place else 4)
        child = Child(flags(config, tmp_path / "runs", "--resume"), tmp_path / "errors", (place, count))
        assert child.exit_code() == -signal.SIGKILL, (number, place, count)
    folder, _ = start(config, tmp_path / "runs", resume=True)
    assert outcome(folder) == undisturbed(config)
    assert [row["step"] for row in read_metrics(folder)] == list(range(1, 25))
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()].count(folder.name) == 1
    assert not (folder / CHECKPOINT).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_from_outside_at_a_random_moment(
    data: str, tmp_path: Path, undisturbed: Undisturbed, number: signal.Signals
) -> None:
    config = small(data, steps=100)
    generator = random.Random(number)
    rows_seen = 0
    for _ in range(2):
        child = Child(flags(config, tmp_path / "runs", "--resume"), tmp_path / "errors")
        rows_seen += generator.randint(5, 30)
        wait_for_rows(tmp_path / "runs", rows_seen)
        assert child.process.pid is not None
        os.kill(child.process.pid, number)
        assert child.exit_code() == (130 if number == signal.SIGTERM else -number)
    folder, _ = start(config, tmp_path / "runs", resume=True)
    assert outcome(folder) == undisturbed(config)


def test_ctrl_c_saves_and_says_so(data: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """The real command, interrupted; a second process continues it."""
    config = small(data, steps=100)
    arguments = [sys.executable, str(ROOT / "train_architectural.py"), *flags(config, tmp_path / "runs", "--name", "A b")]
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


def test_a_finished_run_is_not_repeated_by_resume(data: str, tmp_path: Path) -> None:
    config = small(data)
    folder, record = start(config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, found = start(config, tmp_path, lambda *_: pytest.fail("trained again"), resume=True)
    assert (again, found) == (folder, record)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_existing_run_is_set_aside(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small(data, steps=2)
    outcomes = []
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


def killed(config: RunConfig, out: Path, at: int = 8) -> Path:
    """The folder of a run that was interrupted in step `at`, with its last checkpoint."""

    def interrupt(step: int, _: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(config, out, interrupt, save_every=3)
    (folder,) = out.glob(f"*-s{config.seed}")
    assert (folder / CHECKPOINT).is_file() and read_record(folder).status == "killed"
    return folder


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


# --- what goes wrong -------------------------------------------------------------------------------------------------


def nan_loss(loss: Tensor) -> Tensor:
    return loss * math.nan


def infinite_loss(loss: Tensor) -> Tensor:
    return loss + math.inf


def nan_gradient(loss: Tensor) -> Tensor:
    return loss + (0 * loss).sqrt()


BAD = [nan_loss, infinite_loss, nan_gradient]


def poison(patch: pytest.MonkeyPatch, bad: Callable[[Tensor], Tensor], steps: range | set[int]) -> None:
    """Spoil the loss of some steps, counted from 1; validation is not touched."""
    calls, clean = itertools.count(1), trainer.loss_of
    patch.setattr(trainer, "loss_of", lambda *args: (bad if next(calls) in steps else torch.clone)(clean(*args)))


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Model and optimizers of the run to come."""
    found, build = SimpleNamespace(), trainer.build_optimizers

    def keep(model: torch.nn.Module, config: RunConfig) -> Any:
        found.model, found.optimizers = model, build(model, config)
        return found.optimizers

    monkeypatch.setattr(trainer, "build_optimizers", keep)
    return found


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_gradient_is_skipped_and_counted(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: SimpleNamespace, bad: Any, optimizer: str
) -> None:
    poison(monkeypatch, bad, {1, 6, 7})
    digests: list[str] = []
    folder, record = start(
        small(data, optimizer=optimizer, lazy_proj_freq=100),
        tmp_path,
        lambda *_: digests.append(tensors_sha256(pack(parts.model, parts.optimizers.all))),
    )
    assert (record.status, record.skipped_steps, record.steps) == ("done", 3, 12)
    assert json.loads((folder / "record.json").read_text())["skipped_steps"] == 3
    changed = [one != other for one, other in itertools.pairwise(digests)]
    assert [step for step, moved in enumerate(changed, 2) if not moved] == [6, 7], "weights and state stay as they were"
    assert all(bool(torch.isfinite(weight).all()) for weight in load_file(folder / WEIGHTS).values())
    missing = {row["step"] for row in rows(folder) if not {"loss", "grad_norm"} <= set(row)}
    assert missing == {1, 6, 7} and [row["step"] for row in rows(folder)] == list(range(1, 13))


def test_a_skipped_step_is_still_projected_in_its_turn(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: SimpleNamespace
) -> None:
    """`ngpt.optim.projection`: after every K-th step counted from the start of the run, K = 5 here."""
    poison(monkeypatch, nan_loss, {5})
    drift: list[float] = []
    start(small(data), tmp_path, lambda *_: drift.append(parts.optimizers.projection.drift()))
    assert min(drift[0:4]) > 1e-6
    assert drift[4] < 1e-6 and drift[9] < 1e-6


@pytest.mark.parametrize("most", [1, 3])
def test_too_many_in_a_row_is_divergence(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], most: int
) -> None:
    """`--max-skipped-in-a-row`: after so many steps in a row without a finite gradient the run ends as diverged."""
    with monkeypatch.context() as patch:
        poison(patch, nan_loss, {2, *range(4, 100)})
        assert main(flags(small(data, max_skipped_in_a_row=most), tmp_path)) == (1)
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    record = read_record(folder)
    assert record.status == "diverged" and record.message
    if most == 3:
        assert (record.steps, record.skipped_steps) == (6, 4)
    else:
        assert (record.steps, record.skipped_steps) == (2, 1)
    raw = json.loads((folder / "record.json").read_text())
    assert {"final_val_loss", "final_val_bpb"}.isdisjoint(raw)
    assert main(flags(small(data, max_skipped_in_a_row=most), tmp_path, "--resume")) == 1, "it is not tried again"


def test_a_run_that_resumes_remembers_what_it_skipped(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        poison(patch, nan_loss, {2, 6})
        killed(small(data), tmp_path, at=7)
    _, record = start(small(data), tmp_path, resume=True)
    assert (record.status, record.skipped_steps, record.steps) == ("done", 2, 12)


def test_a_failure_is_recorded(data: str, tmp_path: Path) -> None:
    def fail(step: int, _: float) -> None:
        raise ZeroDivisionError("of the test")

    with pytest.raises(ZeroDivisionError):
        start(small(data), tmp_path, fail)
    (folder,) = tmp_path.glob("muon-*")
    record = read_record(folder)
    assert (record.status, record.steps) == ("failed", 1) and "of the test" in (record.message or "")


def test_bad_input_found_late_is_recorded_with_its_reason(data: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        start(small(data, init_from=str(tmp_path / "absent")), tmp_path / "runs")
    (folder,) = (tmp_path / "runs").glob("muon-*")
    record = read_record(folder)
    assert record.status == "failed" and str(tmp_path / "absent") in (record.message or "")


def test_a_full_disk_is_one_clear_line(data: str, tmp_path: Path) -> None:
    """A limit on the size of a file lets the record be written, but no weights."""
    child = Child(flags(small(data), tmp_path / "runs"), tmp_path / "errors", file_bytes=60_000)
    assert child.exit_code() == 2
    (line,) = (tmp_path / "errors").read_text().splitlines()
    assert line.startswith("error: ") and CHECKPOINT in line
    (folder,) = (tmp_path / "runs").glob("muon-*")
    assert read_record(folder).status == "failed"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "metrics.jsonl", "record.json"]


@pytest.mark.parametrize(("name", "count"), [("train", 32), ("val", 32), ("train", 0), ("val", 0)])
def test_a_corpus_without_a_window_is_refused(tmp_path: Path, name: str, count: int) -> None:
    """A window of 32 needs 33 tokens: 32 bytes behind the separator."""
    (tmp_path / "train.txt").write_text("x" * 32)
    (tmp_path / "val.txt").write_text("x" * 32)
    start(small(str(tmp_path), steps=1), tmp_path / "runs")
    (tmp_path / f"{name}.txt").write_text("x" * max(0, count - 1))
    with pytest.raises(InputError, match=f"{count} {name}") as caught:
        start(small(str(tmp_path), steps=1), tmp_path / "more")
    assert str(tmp_path) in str(caught.value) and not (tmp_path / "more").exists()


# --- time and schedules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eval_every", [1, 3, 100])
def test_the_time_budget_counts_training_alone(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eval_every: int
) -> None:
    """By a clock on which a step takes one second and a validation too."""
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    config = small(data, time_budget_seconds=6.0, eval_every=eval_every, schedule="linear")
    folder, record = start(config, tmp_path)
    validations = len({6, *range(eval_every, 7, eval_every)})
    assert (record.steps, record.train_seconds, record.eval_seconds) == (6, 6, validations)
    assert record.tokens_per_second == 4 * 32
    assert [row["lr"] for row in rows(folder)] == pytest.approx([0.02 * (1 - i / 6) for i in range(6)])


def test_a_real_time_budget_ends_the_run(data: str, tmp_path: Path) -> None:
    _, record = start(small(data, time_budget_seconds=0.2, eval_every=1000), tmp_path)
    assert record.status == "done" and 0.2 <= record.train_seconds < 2 and record.steps > 1


def expected_lr(schedule: str, i: int, n: int = 12, warmup: int = 4, floor: float = 0.1, decay: float = 0.5) -> float:
    """Share of the peak rate in step i of n, from 0."""
    done = i / n
    shape = {
        "constant": 1.0,
        "linear": 1 + (floor - 1) * done,
        "cosine": floor + (1 - floor) * math.cos(math.pi * done / 2) ** 2,
        "wsd": 1.0 if done <= 1 - decay else 1 - (1 - floor) * (done - 1 + decay) / decay,
    }[schedule]
    return shape * min(1.0, (i + 1) / warmup)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_schedules_reach_the_optimizers(
    data: str, tmp_path: Path, parts: SimpleNamespace, schedule: str, optimizer: str
) -> None:
    options: dict[str, Any] = {} if schedule == "constant" else {"lr_floor": 0.1}
    options |= {"decay_share": 0.5} if schedule == "wsd" else {}
    ramp = {"momentum_start": 0.5, "momentum": 0.9, "momentum_warmup_steps": 8} if optimizer == "muon" else {}
    config = small(data, optimizer=optimizer, schedule=schedule, warmup_steps=4, **options, **ramp)
    groups: list[tuple[float, float]] = []
    momenta: list[float] = []

    def look(step: int, _: float) -> None:
        hidden, aux = (group[0] for group in (o.param_groups for o in parts.optimizers.all.values()))
        groups.append((hidden["lr"], aux["lr"]))
        momenta.append(hidden.get("momentum", math.nan))

    folder, _ = start(config, tmp_path, look)
    expected = [expected_lr(schedule, i) for i in range(12)]
    assert [row["lr"] for row in rows(folder)] == pytest.approx([0.02 * share for share in expected])
    assert [lr for lr, _ in groups] == [row["lr"] for row in rows(folder)]
    assert [aux for _, aux in groups] == pytest.approx([0.01 * share for share in expected])
    if optimizer == "muon":
        assert momenta == pytest.approx([0.5 + 0.4 * min(1, i / 8) for i in range(12)])
