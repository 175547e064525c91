"""Checkpoints: to the bit and back, or refused by name; never a changed number loaded."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_runs import as_nobody
from torch import Tensor, nn

from ngpt.config import RunConfig
from ngpt.errors import InputError
from ngpt.files import read_json
from ngpt.model import build_model
from ngpt.optim.build import Optimizers, build_optimizers
from ngpt.presets import resolve
from ngpt.training import checkpoint
from ngpt.training.checkpoint import pack_state, read_tensors, tensors_sha256, unpack_state, write_tensors

VOCAB = 11
STATE = {"steps": 3, "loss": 0.1 + 0.2, "name": "größer", "list": [None, True]}
TENSORS = {
    "model.a": torch.tensor([[1.5, -0.0], [float("nan"), 1e-45]]),
    "model.b": torch.arange(3, dtype=torch.bfloat16),
    "step": torch.tensor(3.0),
    "empty": torch.empty(0, 2),
    "counts": torch.tensor([2**62, -1]),
}


@pytest.mark.parametrize("read", [read_tensors, read_json])
def test_what_may_not_be_read_is_neither_absent_nor_damaged(tmp_path: Path, read: Callable[[Path], object]) -> None:
    write_tensors(tmp_path / "file", TENSORS, STATE)
    (tmp_path / "file").chmod(0)
    with as_nobody(), pytest.raises(PermissionError) as caught:
        read(tmp_path / "file")
    assert str(caught.value.filename) == str(tmp_path / "file")


def bits(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Everything about tensors, comparable with ==, NaN and -0.0 included."""
    flat = {name: tensor.detach().contiguous().flatten() for name, tensor in tensors.items()}
    raw = {name: t.view(torch.uint8).numpy().tobytes() if t.numel() else b"" for name, t in flat.items()}
    return {name: (tensor.dtype, tuple(tensor.shape), raw[name]) for name, tensor in tensors.items()}


def small(optimizer: str = "muon", n_embd: int = 8) -> RunConfig:
    return resolve(optimizer=optimizer, n_layer=1, n_embd=n_embd, n_head=2, seq_len=6, lr=0.01)


def build(config: RunConfig, *, steps: int, seed: int = 0) -> tuple[nn.Module, Optimizers]:
    """A model with its optimizers after some steps on random tokens."""
    model = build_model(config.model, VOCAB, seed=seed)
    optimizers = build_optimizers(model, config)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        model(torch.randint(VOCAB, (2, 6), generator=generator)).square().mean().backward()
        optimizers.move()
        model.zero_grad()
    return model, optimizers


# --- the file --------------------------------------------------------------------------------------------------------


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {**TENSORS, "model.a": TENSORS["model.a"].T.contiguous().T}, STATE)
    tensors, state = read_tensors(path)
    assert bits(tensors) == bits(TENSORS) and state == STATE
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_digest_sees_names_types_shapes_and_bits_but_not_the_order() -> None:
    ones = torch.ones(4)
    different = [
        {"a": ones},
        {"b": ones},
        {"a": ones.double()},
        {"a": ones.view(torch.int32)},
        {"a": ones.reshape(2, 2)},
        {"a": torch.nextafter(ones, 2 * ones)},
        {"a": ones, "b": ones},
        {"a": torch.zeros(4)},
        {"a": -torch.zeros(4)},
    ]
    assert len({tensors_sha256(tensors) for tensors in different}) == len(different)
    assert tensors_sha256({"a": ones, "b": 2 * ones}) == tensors_sha256({"b": 2 * ones, "a": ones})


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, STATE)

    def half(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, file, metadata)
        os.truncate(file, 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(InputError, match="a.safetensors: could not be written: No space left"):
        write_tensors(path, {"b": torch.ones(3)}, {})
    assert bits(read_tensors(path)[0]) == bits(TENSORS) and os.listdir(tmp_path) == ["a.safetensors"]


def refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, TENSORS, STATE)
    content = path.read_bytes()
    for length in range(len(content)):
        refused(path, content[:length])
    refused(path, content + b"\0")


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_refused(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, TENSORS, STATE)
    content = path.read_bytes()
    for position in range(len(content)):
        refused(path, content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :])


@pytest.mark.parametrize("metadata", [None, {}, {"version": "1"}, {"version": "1", "state": "{}", "sha256": "0"}])
def test_a_foreign_safetensors_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file(TENSORS, path, metadata)
    refused(path, path.read_bytes())


@pytest.mark.parametrize("version", ["0", "2", "1.0"])
def test_another_version_is_refused_and_both_are_named(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "VERSION", version)
        write_tensors(path, TENSORS, STATE)
    with pytest.raises(InputError, match=f"checkpoint.safetensors: .*'{version}' instead of '1'"):
        read_tensors(path)


def test_no_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InputError, match=f"^{path}: no such file$"):
        read_tensors(path)
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:  # which a command prints with the name
        read_tensors(path)
    assert str(caught.value.filename) == str(path)


# --- into a model and its optimizers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_a_model_and_its_optimizers_continue_to_the_same_bits(tmp_path: Path, optimizer: str, steps: int) -> None:
    path = tmp_path / "checkpoint.safetensors"
    model, optimizers = build(small(optimizer), steps=steps)
    before = bits(pack_state(dict(model.named_parameters()), optimizers.all))
    write_tensors(path, pack_state(dict(model.named_parameters()), optimizers.all), {})

    copy, copy_optimizers = build(small(optimizer), steps=0, seed=1)
    unpack_state(path, read_tensors(path)[0], dict(copy.named_parameters()), copy_optimizers.all)
    assert bits(pack_state(dict(copy.named_parameters()), copy_optimizers.all)) == before
    ids = torch.arange(12).view(2, 6) % VOCAB
    for one, its_optimizers in ((model, optimizers), (copy, copy_optimizers)):
        one(ids).square().mean().backward()
        its_optimizers.move()
    assert (
        bits(pack_state(dict(copy.named_parameters()), copy_optimizers.all))
        == bits(pack_state(dict(model.named_parameters()), optimizers.all))
        != before
    )


def test_pack_holds_every_weight_and_every_state() -> None:
    model, optimizers = build(small(), steps=1)
    tensors = pack_state(dict(model.named_parameters()), optimizers.all)
    count = len(list(model.parameters()))
    matrices = sum(len(group["params"]) for group in optimizers.hidden.param_groups)
    assert sum(name.startswith("model.") for name in tensors) == count
    assert sum(name.startswith("hidden.") and name.endswith("momentum_buffer") for name in tensors) == matrices > 0
    for key in ("exp_avg", "exp_avg_sq", "step"):
        assert sum(name.startswith("aux.") and name.endswith(f".{key}") for name in tensors) == count - matrices


Change = Callable[[dict[str, Tensor]], object]


def changes() -> Iterator[tuple[str, Change]]:
    weight, buffer = "model.embedding.weight", "hidden.blocks.0.attention.q.weight.momentum_buffer"
    yield "a weight is missing", lambda tensors: tensors.pop(weight)
    yield "a weight too many", lambda tensors: tensors.update({"model.extra": torch.ones(2)})
    yield "a weight of another shape", lambda tensors: tensors.update({weight: tensors[weight].T.contiguous()})
    yield "a state is missing", lambda tensors: tensors.pop(buffer)
    yield "a state of another shape", lambda tensors: tensors.update({buffer: torch.ones(2, 3)})
    yield "a state of no parameter", lambda tensors: tensors.update({"hidden.extra.momentum_buffer": torch.ones(2, 3)})
    yield (
        "a state of another optimizer",
        lambda tensors: tensors.update({"hidden.blocks.0.attention.q.weight.exp_avg": tensors.pop(buffer)}),
    )


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in changes()])
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Change) -> None:
    model, optimizers = build(small(), steps=1)
    tensors = pack_state(dict(model.named_parameters()), optimizers.all)
    change(tensors)
    fresh, fresh_optimizers = build(small(), steps=0, seed=1)
    with pytest.raises(InputError) as caught:
        unpack_state(tmp_path / "checkpoint.safetensors", tensors, dict(fresh.named_parameters()), fresh_optimizers.all)
    assert str(tmp_path / "checkpoint.safetensors") in str(caught.value)


@pytest.mark.parametrize("other", [small("adam"), small(n_embd=16)], ids=["optimizer", "width"])
def test_the_checkpoint_of_another_configuration_is_refused_and_nothing_is_loaded(
    tmp_path: Path, other: RunConfig
) -> None:
    other_model, other_optimizers = build(other, steps=1)
    tensors = pack_state(dict(other_model.named_parameters()), other_optimizers.all)
    model, optimizers = build(small(), steps=0, seed=1)
    before = bits(dict(model.named_parameters()))
    with pytest.raises(InputError) as caught:
        unpack_state(tmp_path / "checkpoint.safetensors", tensors, dict(model.named_parameters()), optimizers.all)
    assert str(tmp_path / "checkpoint.safetensors") in str(caught.value)
    assert bits(dict(model.named_parameters())) == before
