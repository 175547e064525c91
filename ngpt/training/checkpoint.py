"""Checkpoints: one safetensors file with weights, optimizer state and counters, verified before anything is loaded."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ngpt.config import is_a
from ngpt.errors import InputError, as_input_error, require
from ngpt.files import replaced_atomically, require_readable
from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim import foreign
from ngpt.optim.build import state_types
from ngpt.optim.sharded import copy_full_, shard_like
from ngpt.training.record import WEIGHTS, RunRecord, record_of
from ngpt.training.telemetry import LogitScale

VERSION = "1"

Tensors = Mapping[str, Tensor]
Optimizers = Mapping[str, torch.optim.Optimizer]


@dataclass(frozen=True)
class CheckpointState:
    """The state of a run in a checkpoint, beside its tensors."""

    record: RunRecord
    skipped_in_a_row: int
    seen_drift: dict[str, float]
    """by role, as in `LazyProjection`"""
    logit_scale: dict[str, float]
    """as in `ngpt.training.telemetry.LogitScale`"""
    finite: bool
    """whether all its numbers are finite; a step that has just been made may have broken the weights"""
    foreign: Any
    """state of an optimizer of the user's, beside its tensors (`ngpt.optim.foreign`); None without one"""


def parse_checkpoint_state(state: dict[str, Any], path: Path) -> CheckpointState:
    """Parse the JSON `state` of a checkpoint. Raises InputError, naming the file, if it is not that of a run."""
    fields = {field.name for field in dataclasses.fields(CheckpointState)}
    require(set(state) == fields, f"{path}: not the checkpoint of a run")
    drift, skipped = state["seen_drift"], state["skipped_in_a_row"]
    if not is_a(drift, dict[str, float]) or not is_a(skipped, int) or not set(drift) <= set(Role):
        raise InputError(f"{path}: not the checkpoint of a run: {skipped!r:.60} steps skipped, drift {drift!r:.60}")
    scale = state["logit_scale"]
    if not is_a(scale, dict[str, float]) or not set(scale) <= LogitScale.STATE:
        raise InputError(f"{path}: not the checkpoint of a run: logit scale {scale!r:.60}")
    finite = state["finite"]
    require(is_a(finite, bool), f"{path}: not the checkpoint of a run: finite {finite!r:.60}")
    return CheckpointState(record_of(state["record"], str(path)), skipped, drift, scale, finite, state["foreign"])


def tensors_sha256(tensors: Tensors) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Tensors, state: dict[str, Any]) -> None:
    """Write tensors and a JSON `state` as one file, atomically, with a checksum of both."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state, sort_keys=True)
    metadata = {"version": VERSION, "state": text, "sha256": _checksum(content, text)}
    with replaced_atomically(path) as temporary:
        with as_input_error(f"{path}: could not be written", SafetensorError):  # all it reports of a full disk
            save_file(content, temporary, metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote. Raises InputError, naming the file, if it is absent, damaged or foreign."""
    require_readable(path)  # safetensors would call a file that it may not read damaged
    with as_input_error(f"{path}: truncated or damaged", SafetensorError), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    version = metadata.get("version")
    require(version == VERSION, f"{path}: not a file of this version: {version!r} instead of {VERSION!r}")
    sound = metadata.get("sha256") == _checksum(tensors, metadata.get("state", ""))
    require(sound, f"{path}: damaged: its content does not match its checksum")
    return tensors, json.loads(metadata["state"])


def _checksum(tensors: Tensors, state: str) -> str:
    return hashlib.sha256((tensors_sha256(tensors) + state).encode()).hexdigest()


def tensor_type(tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    """Return shape and dtype: what another tensor must have in common to be copied into this one."""
    return tuple(tensor.shape), tensor.dtype


PARTS = {"before": "weights to fall back to", "average": "average of the weights"}
"""Further weights that a checkpoint may hold, with what they are"""


def _weights(parameters: Tensors, others: Mapping[str, Tensors]) -> dict[str, Tensor]:
    parts = {"model": parameters, **others}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def pack_state(
    parameters: Tensors, optimizers: Optimizers, others: Mapping[str, Tensors] = {}
) -> dict[str, Tensor]:  # fmt: skip
    """Return weights as `model.<parameter>` and optimizer state as `<optimizer>.<parameter>.<key>`.

    others: further weights by the part that they are (`PARTS`), as `<part>.<parameter>`.
    """
    tensors = _weights(parameters, others)
    for label, optimizer in optimizers.items():
        for name, parameter in parameters.items():
            tensors |= {f"{label}.{name}.{key}": kept for key, kept in optimizer.state.get(parameter, {}).items()}
    return tensors


def unpack_state(
    path: Path, tensors: Tensors, parameters: Tensors, optimizers: Optimizers,
    others: Mapping[str, Tensors] = {}, *, finite: bool = True,
) -> None:  # fmt: skip
    """Load what `pack_state` returned, in place.

    Raises InputError, naming the file, unless names, shapes and dtypes all fit and, with `finite`, every number is
    finite. Between a step that broke the weights and the fallback from it, or the end of the run, some are not.
    """
    weights = _weights(parameters, others)
    names = {parameter: name for name, parameter in parameters.items()}
    expected = {name: tensor_type(weight) for name, weight in weights.items()}
    stated = [label for label in optimizers if any(name.startswith(f"{label}.") for name in tensors)]
    types = {label: state_types(optimizers[label]) for label in stated}  # before the first step there is none
    for label in stated:
        expected |= {f"{label}.{names[p]}.{key}": kind for p, of in types[label].items() for key, kind in of.items()}
    parts = PARTS | {label: f"{label} optimizer" for label in optimizers}
    for name in (*expected, *tensors):
        fits, part = name in tensors and tensor_type(tensors[name]) == expected.get(name), name.partition(".")[0]
        require(fits, f"{path}: {name} does not fit the {parts.get(part, 'model')} of this run")
        require(not finite or bool(tensors[name].isfinite().all()), f"{path}: {name} is not finite")
    with torch.no_grad():
        for name, weight in weights.items():
            copy_full_(weight, tensors[name])
    for label in stated:
        content = optimizers[label].state_dict()
        content["state"] = {
            index: {key: shard_like(tensors[f"{label}.{names[p]}.{key}"], p) for key in of}
            for index, (p, of) in enumerate(types[label].items())
        }
        optimizers[label].load_state_dict(content)


def pack_foreign(optimizer: torch.optim.Optimizer | None) -> tuple[dict[str, Tensor], Any]:
    """Return the state of an optimizer of the user's as tensors `foreign.<number>`, and what refers to them.

    Raises InputError for a state that cannot be saved.
    """
    if optimizer is None:
        return {}, None
    try:
        return foreign.pack("foreign", optimizer)
    except foreign.UnsavableError as error:
        what = f"{type(optimizer).__name__}: its state cannot be saved as tensors and plain values: {error}"
        raise InputError(what) from error


def unpack_foreign(
    path: Path, tensors: Tensors, optimizer: torch.optim.Optimizer | None, content: Any
) -> dict[str, Tensor]:  # fmt: skip
    """Load what `pack_foreign` returned; return the other tensors. Raises InputError, naming the file, if it is not."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("foreign.")}
    require((optimizer is None) == (content is None), f"{path}: not the checkpoint of a run with this optimizer")
    if optimizer is not None:
        with as_input_error(f"{path}: does not fit {type(optimizer).__name__}", Exception):
            foreign.unpack(optimizer, own, content)
    return {name: tensor for name, tensor in tensors.items() if name not in own}


@torch.no_grad()
def transfer(source: Path, parameters: Tensors, specs: Mapping[str, ParameterSpec]) -> tuple[str, str]:
    """Copy the final weights of the run in `source`, all but embedding and head.

    Returns a summary for people, and the digest of the weights.

    parameters: those of the model that this rank steps. specs: of all parameters of the model.

    A run's final weights are projected, so what is copied keeps the constraint of that run. Raises InputError unless
    the run kept its weights and every transferred tensor has the shape of its counterpart.
    """
    weights, _ = read_tensors(source / WEIGHTS)
    fresh = [name for name, spec in specs.items() if spec.role in (Role.EMBEDDING, Role.HEAD)]
    moved = [name for name in specs if name not in fresh]
    for name in moved:
        if name in parameters:
            shape = parameters[name].shape
            fits = name in weights and weights[name].shape == shape
            require(fits, f"--init-from {source}: no {name} of shape {tuple(shape)} among its weights")
            copy_full_(parameters[name], weights[name])
    roles = (Counter(specs[name].role for name in some) for some in (moved, fresh))
    kept, drawn = (", ".join(f"{n} {role}" for role, n in counts.items()) for counts in roles)
    return f"{kept} tensors; fresh: {drawn}", tensors_sha256(weights)
