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
from ngpt.errors import InputError, first_line
from ngpt.files import replaced_atomically
from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim.muon import SimpleMuon
from ngpt.optim.sharded import cut_like, write_whole
from ngpt.training.folder import WEIGHTS
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


def pack(parameters: Mapping[str, Tensor], optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Weights as `model.<parameter>`, optimizer state as `<optimizer>.<parameter>.<key>`."""
    tensors = {f"model.{name}": parameter for name, parameter in parameters.items()}
    for label, optimizer in optimizers.items():
        for name, state in _by_name(parameters, optimizer.state).items():
            tensors |= {f"{label}.{name}.{key}": value for key, value in state.items()}
    return tensors


def _by_name(parameters: Mapping[str, Tensor], of: Mapping[Tensor, Any]) -> dict[str, Any]:
    """What is known of each parameter, by its name instead; of those without a name nothing."""
    return {name: of[parameter] for name, parameter in parameters.items() if parameter in of}


def unpack(
    path: Path,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
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
    states = _states(path, tensors, parameters, optimizers)
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    load_weights(path, weights, parameters)
    names = {parameter: name for name, parameter in parameters.items()}
    for label, optimizer in optimizers.items():
        content = optimizer.state_dict()
        order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
        content["state"] = {
            index: {key: cut_like(value, parameters[name]) for key, value in states[label][name].items()}
            for index, name in enumerate(order) if name in states[label]
        }  # fmt: skip
        optimizer.load_state_dict(content)


Kind = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor"""


def kind_of(tensor: Tensor) -> Kind:
    """What a tensor that takes this one's place must have."""
    return tuple(tensor.shape), tensor.dtype


def _state_kinds(optimizer: torch.optim.Optimizer) -> dict[Tensor, dict[str, Kind]]:
    """The kind of each tensor that an optimizer keeps, by parameter and key."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, SimpleMuon):
        wide = {p: torch.promote_types(p.dtype, torch.float32) for p in parameters}
        return {
            p: {key: (shape, wide[p] if key == "second_momentum_buffer" else p.dtype) for key, shape in of.items()}
            for p, of in zip(parameters, optimizer.state_shapes(), strict=True)
        }
    return {p: {"step": ((), torch.float32), "exp_avg": kind_of(p), "exp_avg_sq": kind_of(p)} for p in parameters}


def _states(
    path: Path,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Each optimizer's state by parameter name; all of it or, before the first step, none. Raises InputError."""
    states: dict[str, dict[str, dict[str, Tensor]]] = {label: {} for label in optimizers}
    for full_name, tensor in tensors.items():
        label, _, rest = full_name.partition(".")
        name, _, key = rest.rpartition(".")
        if label in states and name in parameters:
            states[label].setdefault(name, {})[key] = tensor
        elif label != "model":
            raise InputError(f"{path}: {full_name} belongs to no part of this run")
    for label, optimizer in optimizers.items():
        found = {name: {key: kind_of(t) for key, t in state.items()} for name, state in states[label].items()}
        if found not in ({}, _by_name(parameters, _state_kinds(optimizer))):
            raise InputError(f"{path}: the state of its {label} optimizer is not that of this run's")
    return states


@torch.no_grad()
def load_weights(path: Path, weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the parameters of the same names, which must be all of them."""
    kinds = {name: kind_of(parameter) for name, parameter in parameters.items()}
    if kinds != {name: kind_of(weight) for name, weight in weights.items()}:
        raise InputError(f"{path}: its weights are those of another model")
    for name, parameter in parameters.items():
        write_whole(parameter, weights[name])


@torch.no_grad()
def transfer(source: Path, parameters: Mapping[str, Tensor], specs: Mapping[str, ParameterSpec]) -> str:
    """Copy the final weights of the run in `source`, all but embedding and head; says what was copied.

    parameters: of the model, those that this rank steps. specs: of all the model's.

    The run's weights were projected at its end, so that those copied lie on the sphere.

    Raises InputError unless the run kept its weights and every transferred tensor has its counterpart's shape.
    """
    path = source / WEIGHTS
    weights, _ = read_tensors(path)
    moved: Counter[Role] = Counter()
    fresh: Counter[Role] = Counter()
    for name, spec in specs.items():
        if spec.role in (Role.EMBEDDING, Role.HEAD):
            fresh[spec.role] += 1
            continue
        moved[spec.role] += 1
        if name in parameters:
            shape = parameters[name].shape
            if name not in weights or weights[name].shape != shape:
                raise InputError(f"--init-from {source}: no {name} of shape {tuple(shape)} among its weights")
            write_whole(parameters[name], weights[name])
    kept, drawn = (", ".join(f"{n} {role}" for role, n in found.items()) for found in (moved, fresh))
    return f"{kept} tensors; fresh: {drawn}"
