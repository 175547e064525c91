"""Optimizers of classes that the user names: how they are built, and their state as tensors and plain values.

Such a class gets the hidden matrices in groups with their `sphere_dim`, their gradients, and a rate that the schedule
sets before every step. Lazy projection brings the matrices back to the sphere, unless the class says that it keeps
them there, by an attribute `stays_on_sphere = True`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.foreign import arguments_of, load_class

Group = dict[str, Any]
Tensors = dict[str, Tensor]


class UnsavableError(Exception):
    """State that is neither a tensor nor a plain value; the message names its type and place."""


def build(groups: Sequence[Group], optim: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """Build the class that --optimizer names, with --optimizer-args. Raises InputError if it cannot be built."""
    return construct(optim.optimizer, groups, optim.lr, optim.optimizer_args)


def construct(optimizer: str, groups: Sequence[Group], lr: float, arguments: str) -> torch.optim.Optimizer:
    """Build a class on groups of matrices. Raises InputError, with what the class says, if it cannot be built."""
    kind = load_class(optimizer)
    try:
        made: torch.optim.Optimizer = kind([dict(group) for group in groups], lr=lr, **arguments_of(arguments))
    except Exception as error:  # whatever the class says of its arguments
        given = f" with --optimizer-args {arguments}" if arguments else ""
        raise InputError(f"--optimizer {optimizer}{given}: {type(error).__name__}: {error}") from error
    if any("lr" not in group for group in made.param_groups):
        raise InputError(f"--optimizer {optimizer}: its groups have no rate lr that a schedule could set")
    return made


# --- state -----------------------------------------------------------------------------------------------------------


def pack(label: str, optimizer: torch.optim.Optimizer) -> tuple[Tensors, Any]:
    """Return the tensors of an optimizer's state dict by name, and the rest as JSON that refers to them.

    Raises UnsavableError for anything in it that is neither a tensor nor a plain value.
    """
    tensors: Tensors = {}
    return tensors, _packed(optimizer.state_dict(), f"{label}.", tensors, "state_dict()")


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], content: Any) -> None:
    """Load what `pack` returned, every tensor in the dtype in which it was saved."""
    state = _unpacked(content, tensors)
    optimizer.load_state_dict(state)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, saved in state["state"].items():  # torch.optim casts state to the dtype of the parameter
        kept: Any = optimizer.state.get(parameters[index]) if isinstance(index, int) else None
        for key, value in saved.items() if isinstance(saved, dict) and isinstance(kept, dict) else ():
            now = kept.get(key)
            if isinstance(value, Tensor) and isinstance(now, Tensor) and now.dtype != value.dtype:
                kept[key] = value.to(now.device)


def _packed(value: Any, prefix: str, tensors: Tensors, place: str) -> Any:
    if isinstance(value, Tensor):
        name = f"{prefix}{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if type(value) in (list, tuple):
        items = [_packed(one, prefix, tensors, f"{place}[{i}]") for i, one in enumerate(value)]
        return {type(value).__name__: items}
    if isinstance(value, dict):
        keys = [key for key in value if not isinstance(key, int | str)]
        if keys:
            raise UnsavableError(f"{place} has a key that is a {type(keys[0]).__name__}")
        return {"dict": [[key, _packed(one, prefix, tensors, f"{place}[{key!r}]")] for key, one in value.items()]}
    raise UnsavableError(f"{place} is a {type(value).__module__}.{type(value).__qualname__}")


def _unpacked(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(content, dict):
        return content
    ((kind, value),) = content.items()
    match kind:
        case "tensor":
            return tensors[value].clone()
        case "dtype":
            return getattr(torch, value)
        case "list":
            return [_unpacked(one, tensors) for one in value]
        case "tuple":
            return tuple(_unpacked(one, tensors) for one in value)
        case "dict":
            return {key: _unpacked(one, tensors) for key, one in value}
    raise KeyError(kind)


def message_of(error: BaseException) -> str:
    """Return an exception in one line."""
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}").strip()[:300]
