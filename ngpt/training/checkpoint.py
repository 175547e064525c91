"""Checkpoints: one safetensors file with weights, optimizer state and counters, verified before anything is loaded."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ngpt.config import is_a
from ngpt.errors import InputError, first_line
from ngpt.files import replaced_atomically
from ngpt.model.roles import Role
from ngpt.optim.muon import SimpleMuon
from ngpt.training.record import RunRecord, record_of

VERSION = "1"


@dataclass(frozen=True)
class Progressed:
    """How far a run was when it left a checkpoint, beside its tensors."""

    record: RunRecord
    skipped_in_a_row: int
    seen_drift: dict[str, float]
    """by role, see `LazyProjection`"""


def progressed_of(state: dict[str, Any], path: Path) -> Progressed:
    """What a checkpoint's `state` says. Raises InputError, naming the file, if it is not that of a run."""
    if set(state) != {field.name for field in dataclasses.fields(Progressed)}:
        raise InputError(f"{path}: not the checkpoint of a run")
    drift, skipped = state["seen_drift"], state["skipped_in_a_row"]
    if not is_a(drift, dict[str, float]) or not is_a(skipped, int) or not set(drift) <= set(Role):
        raise InputError(f"{path}: not the checkpoint of a run: {skipped!r:.60} steps skipped, drift {drift!r:.60}")
    return Progressed(record_of(state["record"], str(path)), skipped, drift)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and a JSON `state` as one file, atomically, with a checksum of both."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state, sort_keys=True)
    metadata = {"version": VERSION, "state": text, "sha256": _checksum(content, text)}
    with replaced_atomically(path) as temporary:
        try:
            save_file(content, temporary, metadata)
        except SafetensorError as error:  # the library's only word for a full disk
            raise InputError(f"{path}: could not be written: {first_line(error)}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises InputError, naming the file, if it is absent, cut off, changed or foreign."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"{path}: truncated or damaged: {error}") from error
    if metadata.get("version") != VERSION:
        raise InputError(f"{path}: not a file of this version: {metadata.get('version')!r} instead of {VERSION!r}")
    if metadata.get("sha256") != _checksum(tensors, metadata.get("state", "")):
        raise InputError(f"{path}: damaged: its content does not match its checksum")
    return tensors, json.loads(metadata["state"])


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    return hashlib.sha256((tensors_sha256(tensors) + state).encode()).hexdigest()


def pack(model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Weights as `model.<name>`, optimizer state as `<optimizer>.<parameter index>.<key>`."""
    tensors: dict[str, Tensor] = {f"model.{name}": parameter for name, parameter in model.named_parameters()}
    for label, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{label}.{index}.{key}": value for key, value in state.items()}
    return tensors


def unpack(
    path: Path,
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    *,
    finite: bool = True,
) -> None:
    """The inverse of `pack`, in place. Raises InputError, naming the file, unless names, shapes and dtypes all fit.

    With `finite` also unless every number is finite. They always are, but between a step that broke the weights and the
    fallback from it.
    """
    for name, tensor in tensors.items():
        if finite and not tensor.isfinite().all():
            raise InputError(f"{path}: {name} is not finite")
    states = _states(path, tensors, optimizers)
    load_weights(path, {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}, model)
    for label, optimizer in optimizers.items():
        content = optimizer.state_dict()
        content["state"] = states[label]
        optimizer.load_state_dict(content)


Kind = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor"""


def kind_of(tensor: Tensor) -> Kind:
    """What a tensor that takes this one's place must have."""
    return tuple(tensor.shape), tensor.dtype


def _state_kinds(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Kind]]:
    """The kind of each tensor that an optimizer keeps, by parameter index and key."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, SimpleMuon):
        wide = {p: torch.promote_types(p.dtype, torch.float32) for p in parameters}
        return {
            index: {key: (shape, wide[p] if key == "second_momentum_buffer" else p.dtype) for key, shape in of.items()}
            for index, (p, of) in enumerate(zip(parameters, optimizer.state_shapes(), strict=True))
        }
    return {
        index: {"step": ((), torch.float32), "exp_avg": kind_of(p), "exp_avg_sq": kind_of(p)}
        for index, p in enumerate(parameters)
    }


def _states(
    path: Path, tensors: Mapping[str, Tensor], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, dict[int, dict[str, Tensor]]]:
    """Each optimizer's state by parameter index; all of it or, before the first step, none. Raises InputError."""
    states: dict[str, dict[int, dict[str, Tensor]]] = {label: {} for label in optimizers}
    for name, tensor in tensors.items():
        label, _, rest = name.partition(".")
        index, _, key = rest.partition(".")
        if label in states and index.isdigit():
            states[label].setdefault(int(index), {})[key] = tensor
        elif label != "model":
            raise InputError(f"{path}: {name} belongs to no part of this run")
    for label, optimizer in optimizers.items():
        found = {index: {key: kind_of(t) for key, t in state.items()} for index, state in states[label].items()}
        if found not in ({}, _state_kinds(optimizer)):
            raise InputError(f"{path}: the state of its {label} optimizer is not that of this run's")
    return states


@torch.no_grad()
def load_weights(path: Path, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Copy `weights` into the model's parameters of the same names, which must be all of them."""
    parameters = dict(model.named_parameters())
    kinds = {name: kind_of(parameter) for name, parameter in parameters.items()}
    if kinds != {name: kind_of(weight) for name, weight in weights.items()}:
        raise InputError(f"{path}: its weights are those of another model")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
