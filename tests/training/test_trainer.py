"""One run, whole: the same bits again, time and schedules, the record, validation by hand, and transferred weights."""

import dataclasses
import itertools
import math
import os
import runpy
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from safetensors.torch import load_file
from small_runs import ROOT, VAL, Undisturbed, outcome, rows, small, start

from ngpt import code
from ngpt.config import Runtime
from ngpt.data.corpus import load_corpus
from ngpt.data.shards import write_shard
from ngpt.errors import InputError
from ngpt.files import read_json
from ngpt.identity import run_digest, run_id
from ngpt.machine import core_count, processor
from ngpt.model import build_model
from ngpt.model.roles import parameter_specs
from ngpt.training import clock, step, trainer, worker
from ngpt.training.checkpoint import tensors_sha256, transfer
from ngpt.training.record import WEIGHTS, read_metrics, read_record
from ngpt.training.trainer import train

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


def test_validation_sees_the_weights_on_the_sphere(data: str, undisturbed: Undisturbed) -> None:
    """In the middle of a run as at its end, however long ago the last projection was."""
    drifted = undisturbed(small(data, lazy_proj_freq=100))[-1]
    ended = undisturbed(small(data, lazy_proj_freq=100, steps=5))
    assert [row["val_loss"] for row in drifted if row["step"] == 5] == [ended[2]]


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_the_projection_frequency_changes_training(data: str, undisturbed: Undisturbed, optimizer: str) -> None:
    finals = {undisturbed(small(data, optimizer=optimizer, lazy_proj_freq=k))[3]["final"] for k in (1, 5, 7)}
    assert len(finals) == 3


# --- time and schedules ----------------------------------------------------------------------------------------------


class Clock:
    """A clock that only what is patched moves."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.patch = 0.0, patch
        patch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: self.now, process_time=None))

    def takes(self, place: Any, name: str, seconds: float | Iterator[float]) -> None:
        """Let each call of a function take so long."""
        durations = itertools.repeat(seconds) if isinstance(seconds, float) else seconds
        function = getattr(place, name)

        def slow(*args: Any) -> Any:
            self.now += next(durations)
            return function(*args)

        self.patch.setattr(place, name, slow)


@pytest.mark.parametrize("eval_every", [1, 3, 100])
def test_the_time_budget_counts_training_alone(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eval_every: int
) -> None:
    """The first step is start-up and takes 90 seconds, the others 1, a validation 10, a telemetry 30."""
    slow = Clock(monkeypatch)
    slow.takes(step, "cross_entropy", itertools.chain([90.0], itertools.repeat(1.0)))
    slow.takes(trainer.Evaluator, "measure", 10.0)
    slow.takes(trainer.Telemetry, "measure", 30.0)
    config = small(data, time_budget_seconds=6.0, eval_every=eval_every, schedule="linear")
    folder, record = start(config, tmp_path)
    validations, watched = len({7, *range(eval_every, 8, eval_every)}), 2  # after steps 1 and 4
    assert (record.steps, record.timed_steps, record.train_seconds) == (7, 6, 6.0)
    assert record.eval_seconds == 10 * validations + 30 * watched
    assert record.tokens_per_second == 4 * 32
    assert [row["lr"] for row in rows(folder)] == pytest.approx([0.02, *(0.02 * (1 - i / 6) for i in range(6))])
    metrics = read_metrics(folder)
    assert [row["seconds"] for row in metrics] == [90, *[1] * 6]
    assert [row["train_seconds"] for row in metrics] == list(range(7))


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.4, 9.0, 11.0])
def test_a_budget_ends_at_the_step_that_is_nearest(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """5.1 seconds: by at most half a step too long or too short, and a slower machine makes fewer steps."""
    Clock(monkeypatch).takes(step, "cross_entropy", seconds)
    _, record = start(small(data, time_budget_seconds=5.1), tmp_path)
    assert record.timed_steps == max(1, round(5.1 / seconds)) and abs(record.train_seconds - 5.1) <= max(
        seconds / 2, seconds - 5.1
    )


def test_the_cpu_clock_does_not_count_waiting(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps that sleep; and the clock changes nothing but the times in the record."""
    clean = step.cross_entropy
    monkeypatch.setattr(step, "cross_entropy", lambda *args: (time.sleep(0.05), clean(*args))[1])
    (folder, cpu), (other, wall) = (start(small(data, clock=clock), tmp_path) for clock in ("cpu", "wall"))
    assert wall.train_seconds > 11 * 0.05 > 0.3 > cpu.train_seconds > 0
    assert outcome(folder) == outcome(other)
    with pytest.raises(InputError, match="--clock cpu measures the time of one CPU thread"):
        trainer.train(small(data, clock="cpu"), Runtime(out=tmp_path / "refused", threads=2, progress=False))
    assert not (tmp_path / "refused").exists()


def test_a_real_time_budget_is_kept(data: str, tmp_path: Path) -> None:
    """Within 2% of 0.6 seconds, some 200 steps."""
    config = small(data, time_budget_seconds=0.6, eval_every=1000, telemetry_every=0, clock="cpu")
    _, record = start(config, tmp_path)
    assert record.status == "done" and abs(record.train_seconds / 0.6 - 1) < 0.02 and record.timed_steps > 20


def expected_lr(schedule: str, i: int, n: int = 12, warmup: int = 4, floor: float = 0.1, decay: float = 0.5) -> float:
    """Share of the peak rate in step i of n, from 0."""
    done = i / n
    shape = {
        "constant": 1.0,
        "linear": 1 + (floor - 1) * done,
        "cosine": floor + (1 - floor) * math.cos(math.pi * done / 2) ** 2,
        "wsd": 1.0 if done <= 1 - decay else 1 - (1 - floor) * (done - 1 + decay) / decay,
        "sqrt": 1 - (1 - floor) * math.sqrt(done),
    }[schedule]
    return shape * min(1.0, (i + 1) / warmup)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd", "sqrt"])
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


# --- record and validation -------------------------------------------------------------------------------------------


def test_the_run_folder_is_the_contract(data: str, tmp_path: Path) -> None:
    config = small(data)
    seen: list[dict[str, Any]] = []

    def look(step: int, _: float) -> None:
        (path,) = tmp_path.glob("*/record.json")
        seen.append(read_json(path))

    folder, record = start(config, tmp_path, look, name="a name")
    raw = read_json(folder / "record.json")
    assert folder == tmp_path / record.run_id and record.run_id == run_id(config, record.data_digest)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "metrics.jsonl", "record.json", WEIGHTS]
    expected = {
        "run_id", "digest", "name", "status", "seed", "config", "steps", "final_val_loss", "final_val_bpb",
        "tokens_per_second", "train_seconds", "skipped_steps", "versions", "device", "data_digest",
    }  # fmt: skip
    assert expected <= set(raw) and ("commit" in raw or not (ROOT / ".git").exists())
    assert None not in raw.values() and raw == {k: v for k, v in dataclasses.asdict(record).items() if v is not None}
    assert (raw["status"], raw["seed"], raw["name"], raw["skipped_steps"]) == ("done", 0, "a name", 0)
    assert raw["digest"] == run_digest(config, raw["data_digest"])
    assert raw["config"] == read_json(folder / "config.json") == dataclasses.asdict(config)
    assert raw["tokens_per_second"] == pytest.approx(11 * 4 * 32 / raw["train_seconds"])
    assert raw["versions"]["torch"] == torch.__version__
    assert raw["device"].startswith(processor()) and f"{core_count()} cores" in raw["device"]

    running = seen[5]
    assert running["status"] == "running"
    assert {"final_val_loss", "final_val_bpb", "tokens_per_second", "peak_memory_bytes"}.isdisjoint(running)


def test_metrics_have_what_was_measured_and_nothing_else(data: str, undisturbed: Undisturbed) -> None:
    found = undisturbed(small(data))[-1]
    assert [row["step"] for row in found] == list(range(1, 13))
    assert all({"step", "loss", "lr", "grad_norm"} <= set(row) for row in found)
    assert [row["step"] for row in found if "val_loss" in row] == [5, 10, 12]
    assert [row["step"] for row in found if "rotation_hidden_rad" in row] == [1, 4, 8, 12]
    assert all(math.isfinite(value) for row in found for value in row.values())
    assert undisturbed(small(data))[2] == found[-1]["val_loss"]
    sparse = undisturbed(small(data, log_every=7))[-1]
    assert [row["step"] for row in sparse] == [1, 4, 5, 7, 8, 10, 12]


def test_validation_by_hand(data: str, tmp_path: Path) -> None:
    """The tokens from the text, the loss from the saved weights, bytes from the text: no code of the data pipeline."""
    stream = [token for text in VAL for token in (256, *text.encode())]
    whole = (len(stream) - 1) // 32
    windows = whole - 1  # not all of them
    config = small(data, eval_tokens=32 * windows)
    folder, record = start(config, tmp_path)
    starts = [32 * (i * whole // windows) for i in range(windows)]  # spread over the whole stream
    ids = torch.tensor([stream[start : start + 33] for start in starts])
    separators = ids[:, 1:].eq(256).sum().item()
    assert separators > 0
    model = build_model(small(data).model, 257, seed=1)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    with torch.no_grad():
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1).double(), ids[:, 1:].flatten()).item()
    assert record.eval_tokens == 32 * windows
    assert record.final_val_loss == pytest.approx(loss, abs=1e-5)
    text_bytes = 32 * windows - separators  # a separator between documents is a target without text
    assert record.final_val_bpb == pytest.approx(loss / math.log(2) * 32 * windows / text_bytes, abs=1e-5)


def test_overfitting_trains_and_validates_on_the_same_few_windows(data: str, tmp_path: Path) -> None:
    """Windows at equal distances of the training text, each seen; the loss from the saved weights, by hand."""
    folder, record = start(small(data, overfit_windows=3, batch_size=2, steps=60, lr=0.05), tmp_path)
    corpus = load_corpus(small(data).data)
    stream = torch.from_numpy(corpus.train.astype(np.int64))
    whole = (len(stream) - 1) // 32
    ids = torch.stack([stream[32 * (i * whole // 3) :][:33] for i in range(3)])
    model = build_model(small(data).model, 257, seed=1)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    with torch.no_grad():
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1).double(), ids[:, 1:].flatten()).item()
    assert record.eval_tokens == 3 * 32 and record.final_val_loss == pytest.approx(loss, abs=1e-5)
    assert loss < 1, "learned by heart"
    with pytest.raises(InputError, match=f"--overfit-windows 9999: --data .* has {whole}"):
        start(small(data, overfit_windows=9999), tmp_path)


def test_bits_per_byte_are_missing_where_byte_lengths_are_unknown(tmp_path: Path) -> None:
    write_shard(tmp_path / "tokens.bin", np.random.default_rng(0).integers(0, 50257, 2000).astype(np.uint16))
    folder, record = start(small(str(tmp_path / "tokens.bin"), steps=1, eval_tokens=64), tmp_path)
    assert record.final_val_loss == pytest.approx(math.log(50257), abs=1)
    assert "final_val_bpb" not in read_json(folder / "record.json")
    assert all("val_bpb" not in row for row in rows(folder))


@pytest.mark.parametrize("change", [lambda path: os.utime(path, ns=(0, 0)), lambda path: path.unlink()])
def test_shards_that_change_during_a_run_end_it(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """Tokens are read from them until its end, and the run's id is a digest of what they held at its start."""
    for name in ("train", "val"):
        write_shard(tmp_path / f"{name}.bin", np.random.default_rng(0).integers(0, 50257, 2000).astype(np.uint16))
    config = small(str(tmp_path), steps=3, eval_tokens=64)
    with pytest.raises(InputError, match=r"train\.bin: (changed while in use|no such file)"):
        start(config, tmp_path / "runs", lambda step, _: change(tmp_path / "train.bin") if step == 2 else None)
    (record,) = (read_record(path.parent) for path in (tmp_path / "runs").glob("*/record.json"))
    assert record.status == "failed" and "train.bin" in (record.message or "")


def test_a_run_says_what_its_data_are(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(small(data, steps=1), Runtime(out=tmp_path, threads=1))
    found = "text, 1 training and 1 validation files; 26,552 training and 940 validation tokens\n"
    assert found in capsys.readouterr().err
    (tmp_path / "train.txt").write_text("few words for training. " * 9)
    (tmp_path / "val.txt").write_text("and many words to validate on. " * 99)
    train(small(str(tmp_path), steps=1), Runtime(out=tmp_path / "runs", threads=1))
    said = capsys.readouterr().err
    assert "; 217 training and 3,070 validation tokens\n" in said and "more validation tokens than training" in said
    (tmp_path / "train.txt").write_text("few")
    with pytest.raises(InputError, match="4 training and 3,070 validation tokens .*: those for training"):
        start(small(str(tmp_path)), tmp_path)


# --- transferred weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["gated-ngpt", "ngpt", "gpt"])
def test_everything_but_the_vocabulary_is_transferred(data: str, tmp_path: Path, arch: str) -> None:
    source, _ = start(small(data, arch=arch), tmp_path)
    weights = load_file(source / WEIGHTS)
    model = build_model(small(data, arch=arch).model, 300, seed=7)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    transfer(source, dict(model.named_parameters()), parameter_specs(model))
    fresh = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    by_vocabulary = {name for name, parameter in before.items() if 300 in parameter.shape}
    assert fresh == by_vocabulary and len(by_vocabulary) == (2 if arch == "gpt" else 3)
    for name, parameter in model.named_parameters():
        assert name in fresh or torch.equal(parameter, weights[name])


def test_init_from_starts_a_run_from_the_transferred_weights(data: str, tmp_path: Path) -> None:
    source, _ = start(small(data), tmp_path)
    still: dict[str, Any] = dict(steps=1, lr=1e-12, aux_lr=1e-12, seed=5)
    folder, record = start(small(data, init_from=str(source), **still), tmp_path)
    scratch, _ = start(small(data, **still), tmp_path)
    found, given, fresh = (load_file(path / WEIGHTS) for path in (folder, source, scratch))
    own = {"embedding.weight", "head.weight", "s_z.value"}
    assert own < set(found)
    for name, weight in found.items():
        torch.testing.assert_close(weight, (fresh if name in own else given)[name], atol=1e-6, rtol=0)
    assert record.config["train"]["init_from"] == str(source)
    assert record.digest != read_record(scratch).digest


def test_weights_that_are_not_those_of_the_id_are_refused(data: str, tmp_path: Path) -> None:
    """The id states the digest in the record; another run's weights must not be taken for them."""
    source, _ = start(small(data), tmp_path)
    other, _ = start(small(data, seed=1), tmp_path)
    shutil.copy(other / WEIGHTS, source / WEIGHTS)
    with pytest.raises(InputError, match="not the weights that its record states"):
        start(small(data, init_from=str(source)), tmp_path)


def test_a_run_that_is_not_the_planned_one_does_not_start(data: str, tmp_path: Path) -> None:
    config, runtime = small(data), Runtime(out=tmp_path, threads=1, progress=False)
    planned = run_id(config, load_corpus(config.data).digest)
    with pytest.raises(InputError, match="the code or the data have changed"):
        train(config, runtime, planned="muon-0123456789-s0")
    assert not any(tmp_path.iterdir())
    assert train(config, runtime, planned=planned)[0].name == planned


def test_code_that_is_edited_while_a_campaign_starts_is_one_line(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that processes are forked from goes on, and each run says it."""
    monkeypatch.setattr(code, "FIRST_STAMPS", {})
    code.code_digest.cache_clear()
    runpy.run_module("ngpt.training.preload")
    messages, stopped = worker._train(small(data), Runtime(out=tmp_path, progress=False), "muon-0123456789-s0", None)
    assert not stopped and [kind for kind, _ in messages] == ["error"] and "has changed since" in messages[0][1]


def test_init_from_keeps_the_lengths_of_a_run_without_constraint(data: str, tmp_path: Path) -> None:
    free: dict[str, Any] = {"constraint": "none", "lr": 0.3}
    source, _ = start(small(data, **free), tmp_path / "source", keep_weights=True)
    folder, _ = start(small(data, init_from=str(source), steps=1, **free | {"lr": 1e-9}), tmp_path, keep_weights=True)
    name = "blocks.0.attention.q.weight"
    before, after = (load_file(path / WEIGHTS)[name] for path in (source, folder))
    assert (before.norm(dim=-1) - 1).abs().max() > 0.05
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_init_from_what_does_not_fit_is_refused(data: str, tmp_path: Path) -> None:
    def init(source: Path, **fields: Any) -> None:
        with pytest.raises(InputError) as caught:
            start(small(data, init_from=str(source), **fields), tmp_path / "runs")
        assert str(source) in str(caught.value)

    source, _ = start(small(data, steps=1), tmp_path / "source")
    init(tmp_path / "absent")
    init(source, n_embd=16)
    init(source, arch="ngpt")
    init(source, n_layer=2)
    content = (source / WEIGHTS).read_bytes()
    (source / WEIGHTS).write_bytes(content[:-1])
    init(source)
    without, _ = start(small(data, steps=1), tmp_path / "without", keep_weights=False)
    assert not (without / WEIGHTS).exists()
    init(without)
