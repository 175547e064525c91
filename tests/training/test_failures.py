"""Runs in which something goes wrong: bad gradients, failures, a full disk, too little text; the record says which."""

import itertools
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Child, Undisturbed, broken_step, flags, killed, outcome, rows, small, start
from torch import Tensor

from ngpt.command import main
from ngpt.doctor import examine, runs_in
from ngpt.errors import InputError
from ngpt.model import layers
from ngpt.model.loss import cross_entropy
from ngpt.optim.muon import SimpleMuon
from ngpt.training import step, trainer
from ngpt.training.checkpoint import pack_state, read_tensors, tensors_sha256, write_tensors
from ngpt.training.fallback import Fallback
from ngpt.training.record import CHECKPOINT, WEIGHTS, read_record


def nan_loss(loss: Tensor) -> Tensor:
    return loss * math.nan


def infinite_loss(loss: Tensor) -> Tensor:
    return loss + math.inf


def nan_gradient(loss: Tensor) -> Tensor:
    return loss + (0 * loss).sqrt()


BAD = [nan_loss, infinite_loss, nan_gradient]


def poison(patch: pytest.MonkeyPatch, bad: Callable[[Tensor], Tensor], steps: range | set[int]) -> None:
    """Spoil the loss of some steps, counted from 1; validation is not touched."""
    calls, clean = itertools.count(1), cross_entropy
    patch.setattr(step, "cross_entropy", lambda *args: (bad if next(calls) in steps else torch.clone)(clean(*args)))


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_activation_leaves_weights_and_state_finite(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: SimpleNamespace, value: float, optimizer: str
) -> None:
    """One number in the MLP's output at steps 1, 4 and 5; validations are not touched."""
    passes, clean = itertools.count(1), layers.SwiGLU.forward

    def spoilt(mlp: layers.SwiGLU, h: Tensor) -> Tensor:
        f = clean(mlp, h)
        if torch.is_grad_enabled() and next(passes) in {1, 4, 5}:
            f = f.masked_fill(torch.arange(f.numel()).reshape(f.shape) == 7, value)
        return f

    monkeypatch.setattr(layers.SwiGLU, "forward", spoilt)

    def look(*_: Any) -> None:
        for name, tensor in pack_state(dict(parts.model.named_parameters()), parts.optimizers.all).items():
            assert tensor.isfinite().all(), name

    folder, record = start(small(data, optimizer=optimizer, n_layer=1), tmp_path, look)
    assert (record.status, record.skipped_steps, record.steps) == ("done", 3, 12)
    assert [row["step"] for row in rows(folder) if "loss" not in row] == [1, 4, 5]


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
        lambda *_: digests.append(
            tensors_sha256(pack_state(dict(parts.model.named_parameters()), parts.optimizers.all))
        ),
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
    start(small(data), tmp_path, lambda *_: drift.append(max(parts.optimizers.projection.drift().values())))
    assert min(drift[0:4]) > 1e-6
    assert drift[4] < 1e-6 and drift[9] < 1e-6


@pytest.mark.parametrize(("most", "steps", "skipped"), [(1, 2, 1), (3, 6, 4)])
def test_too_many_in_a_row_is_divergence(
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    most: int,
    steps: int,
    skipped: int,
) -> None:
    """`--max-skipped-in-a-row`: after so many steps in a row without a finite gradient the run ends as diverged."""
    arguments = flags(small(data, max_skipped_in_a_row=most), tmp_path)
    with monkeypatch.context() as patch:
        poison(patch, nan_loss, {2, *range(4, 100)})
        assert main(arguments) == 1
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    record = read_record(folder)
    assert (record.status, record.steps, record.skipped_steps) == ("diverged", steps, skipped) and record.message
    assert {"final_val_loss", "final_val_bpb"}.isdisjoint(json.loads((folder / "record.json").read_text()))
    assert main([*arguments, "--resume"]) == 1 and read_record(folder) == record, "it is not tried again"


def test_a_run_that_resumes_remembers_what_it_skipped(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        poison(patch, nan_loss, {2, 6})
        killed(small(data), tmp_path, at=7)
    _, record = start(small(data), tmp_path, resume=True)
    assert (record.status, record.skipped_steps, record.steps) == ("done", 2, 12)


def test_divergence_is_counted_across_a_kill(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(data, max_skipped_in_a_row=4)
    with monkeypatch.context() as patch:
        poison(patch, nan_loss, range(5, 100))
        _, undisturbed = start(config, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        poison(patch, nan_loss, {5, 6})
        killed(config, tmp_path / "killed", at=7)
    with monkeypatch.context() as patch:
        poison(patch, nan_loss, range(1, 100))
        _, resumed = start(config, tmp_path / "killed", resume=True)
    assert resumed.status == undisturbed.status == "diverged" and resumed.skipped_steps >= 4
    assert (resumed.steps, resumed.skipped_steps) == (undisturbed.steps, undisturbed.skipped_steps)


# --- --nan-fallback --------------------------------------------------------------------------------------------------


def break_muon(patch: pytest.MonkeyPatch, at: int, *, normuon_too: bool = False) -> None:
    patch.setattr(SimpleMuon, "step", broken_step(at, normuon_too=normuon_too))


FALLING: dict[str, Any] = {"nan_fallback": "normuon", "max_skipped_in_a_row": 2, "steps": 16}


def test_without_a_fallback_a_broken_step_ends_the_run(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_muon(monkeypatch, 5)
    folder, record = start(small(data, **FALLING | {"nan_fallback": None}), tmp_path)
    assert (record.status, record.steps, record.skipped_steps, record.fell_back_at_step) == ("diverged", 7, 2, None)
    assert "fell_back_at_step" not in json.loads((folder / "record.json").read_text())


def test_normuon_takes_over_from_the_weights_before_the_broken_step(
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parts: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Step 5 breaks the weights, 6 and 7 find no finite gradient, 8 goes on from where step 5 began."""
    break_muon(monkeypatch, 5)
    digests: list[str] = []
    arguments = [flag for flag in flags(small(data, **FALLING), tmp_path) if flag != "--no-progress"]
    clean, take_over = trainer.Run.step, Fallback.take_over

    def watched_step(run: trainer.Run) -> Any:
        digests.append(tensors_sha256(dict(run.model.named_parameters())))
        return clean(run)

    def watched_fall(fallback: Fallback) -> bool:
        fell = take_over(fallback)
        digests.append(tensors_sha256(dict(parts.model.named_parameters())))
        assert not parts.optimizers.hidden.state, "fresh momentum"
        return fell

    monkeypatch.setattr(trainer.Run, "step", watched_step)
    monkeypatch.setattr(Fallback, "take_over", watched_fall)
    assert main(arguments) == 0
    captured = capsys.readouterr()
    folder = Path(captured.out.splitlines()[-1])
    record = read_record(folder)
    assert (record.status, record.steps, record.skipped_steps, record.fell_back_at_step) == ("done", 16, 2, 7)
    assert "after 7 steps: no finite gradient; NorMuon takes over" in captured.err
    before_step_5, after_fall = digests[4], digests[7]
    assert before_step_5 == after_fall == digests[8], "digests 5 and 6 are of the broken weights"
    groups = parts.optimizers.hidden.param_groups
    assert all(group["normuon"] == "short-axis" for group in groups)
    assert all("second_momentum_buffer" in state for state in parts.optimizers.hidden.state.values())
    assert all(bool(torch.isfinite(weight).all()) for weight in load_file(folder / WEIGHTS).values())
    losses = [row["loss"] for row in rows(folder) if row["step"] > 7]
    assert len(losses) == 9 and losses[-1] < losses[0]


def test_the_fallback_works_once(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_muon(monkeypatch, 5, normuon_too=True)
    _, record = start(small(data, **FALLING), tmp_path)
    assert (record.status, record.steps, record.skipped_steps, record.fell_back_at_step) == ("diverged", 10, 4, 7)


def test_an_armed_fallback_that_is_not_needed_changes_nothing(data: str, undisturbed: Undisturbed) -> None:
    armed, plain = (undisturbed(small(data, nan_fallback=kind)) for kind in ("normuon", None))
    assert armed == plain


@pytest.mark.parametrize(
    ("breaks", "at"), [(5, 4), (5, 7), (6, 7), (5, 9), (5, 13)],
    ids=["before", "while broken", "just broken", "after it fell back", "long after"],
)  # fmt: skip
def test_a_run_killed_around_its_fallback_resumes_to_the_same_bits(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: int, at: int
) -> None:
    """Checkpoints after every third step: 3, 6 (with broken weights), 9 and 12 (NorMuon's)."""
    config = small(data, **FALLING)
    with monkeypatch.context() as patch:
        break_muon(patch, breaks)
        folder, _ = start(config, tmp_path / "undisturbed")
        whole = outcome(folder)
    with monkeypatch.context() as patch:
        break_muon(patch, breaks)
        killed(config, tmp_path / "killed", at=at)
    with monkeypatch.context() as patch:
        break_muon(patch, 5 - 3 if at == 4 else 1)
        folder, record = start(config, tmp_path / "killed", resume=True)
    assert outcome(folder) == whole and record.fell_back_at_step == breaks + 2


def test_a_checkpoint_without_the_weights_to_fall_back_to_is_refused(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(data, **FALLING)
    folder = killed(config, tmp_path)
    tensors, state = read_tensors(folder / CHECKPOINT)
    first = next(name for name in tensors if name.startswith("before."))
    write_tensors(folder / CHECKPOINT, {n: t for n, t in tensors.items() if n != first}, state)
    with pytest.raises(InputError, match="the weights to fall back to"):
        start(config, tmp_path, resume=True)


def test_a_failure_is_recorded(data: str, tmp_path: Path) -> None:
    def fail(step: int, _: float) -> None:
        raise ZeroDivisionError("of the test")

    with pytest.raises(ZeroDivisionError):
        start(small(data), tmp_path, fail)
    (folder,) = tmp_path.glob("muon-*")
    record = read_record(folder)
    assert (record.status, record.steps) == ("failed", 1) and "of the test" in (record.message or "")


def test_bad_input_found_late_is_recorded_with_its_reason(data: str, tmp_path: Path) -> None:
    source, _ = start(small(data), tmp_path / "source", keep_weights=False)
    with pytest.raises(InputError):
        start(small(data, init_from=str(source)), tmp_path / "runs")
    (folder,) = (tmp_path / "runs").glob("muon-*")
    record = read_record(folder)
    assert record.status == "failed" and str(source / WEIGHTS) in (record.message or "")


def no_damage(out: Path) -> None:
    """By the doctor, of every run."""
    for folder in runs_in(out):
        _, damage, _ = examine(folder)
        assert not damage, damage


def one_line(errors: Path) -> str:
    """The error; before it, a note may say that an earlier run was set aside."""
    *notes, line = errors.read_text().splitlines()
    assert line.startswith("error: ") and all(note.startswith("note: ") for note in notes), [*notes, line]
    return line


@pytest.mark.parametrize(
    ("file_bytes", "name"),
    [(1000, "config.json"), (2000, "record.json"), (4000, "metrics.jsonl"), (60_000, CHECKPOINT)],
)
def test_a_file_that_cannot_grow_is_one_clear_line(data: str, tmp_path: Path, file_bytes: int, name: str) -> None:
    """A limit on the size of a file lets those be written that are smaller."""
    config = small(data, steps=40)
    seldom = ["--save-every", "1000"] if name == "metrics.jsonl" else []
    for _ in range(2):  # the same again, over what the first left
        arguments = flags(config, tmp_path / "runs", "--resume", *seldom)
        child = Child(arguments, tmp_path / "errors", file_bytes=file_bytes)
        assert child.exit_code() == 2 and name in one_line(tmp_path / "errors")
        if name in ("metrics.jsonl", CHECKPOINT):
            no_damage(tmp_path / "runs")
            folder = next((tmp_path / "runs").glob("muon-*-s0"))
            assert read_record(folder).status == "failed"
            assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.jsonl", "record.json"}


def test_a_full_disk_is_one_clear_line_and_loses_nothing(
    data: str, tmp_path: Path, small_disk: Path, undisturbed: Undisturbed
) -> None:
    """It fills during records, metrics and checkpoints in turn; with room again, the run ends in the same bits."""
    config = small(data, steps=24)
    for kilobytes in (4, 8, 12, 40, 160, 200):
        size = f"remount,size={kilobytes}k"
        if subprocess.run(["mount", "-o", size, str(small_disk)], capture_output=True).returncode:
            continue  # more lies there already
        child = Child(flags(config, small_disk / "runs", "--resume"), tmp_path / "errors")
        assert child.exit_code() == 2, kilobytes
        assert "No space left on device" in one_line(tmp_path / "errors") or CHECKPOINT in one_line(tmp_path / "errors")
        if list(small_disk.glob("runs/*/record.json")):
            no_damage(small_disk / "runs")
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    folder, _ = start(config, small_disk / "runs", resume=True)
    assert outcome(folder) == undisturbed(config)


def test_a_folder_that_became_read_only_is_one_clear_line(
    data: str, tmp_path: Path, small_disk: Path, undisturbed: Undisturbed
) -> None:
    """With a checkpoint of a killed run in it: nothing is lost, and writable again it continues to the same bits."""
    config = small(data)
    killed(config, small_disk / "runs")
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    child = Child(flags(config, small_disk / "runs", "--resume"), tmp_path / "errors")
    assert child.exit_code() == 2 and one_line(tmp_path / "errors").endswith("Read-only file system")
    no_damage(small_disk / "runs")
    assert before == {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    folder, _ = start(config, small_disk / "runs", resume=True)
    assert outcome(folder) == undisturbed(config)


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
