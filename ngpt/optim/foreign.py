"""Optimizers of classes that the user names: how they are built, and their state as tensors and plain values.

Such a class gets the hidden matrices in groups with their `sphere_dim`, their gradients, and a rate that the schedule
sets before every step. Lazy projection brings the matrices back to the sphere, unless the class says that it keeps
them there, by an attribute `stays_on_sphere = True`.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ngpt.config import OptimConfig
from ngpt.errors import InputError
from ngpt.foreign import arguments_of, failure, load_class

Group = dict[str, Any]
Tensors = dict[str, Tensor]


class UnsavableError(Exception):
    """State that is neither a tensor nor a plain value; the message names its type and place."""


def build(groups: Sequence[Group], optim: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """Build the class that --optimizer names, with --optimizer-args. Raises InputError if it cannot be built.

    It gets `sphere_dim` as in the trial and on its page: -1 or -2, or None without a sphere.
    """
    counted = [{**group, "sphere_dim": _from_the_end(group["sphere_dim"])} for group in groups]
    return construct(optim.optimizer, counted, optim.lr, optim.optimizer_args)


def _from_the_end(dim: int | None) -> int | None:
    """Return a dimension of a matrix counted from the end."""
    return dim if dim is None or dim < 0 else dim - 2


def construct(optimizer: str, groups: Sequence[Group], lr: float, arguments: str) -> torch.optim.Optimizer:
    """Build a class on groups of matrices. Raises InputError, with what the class says, if it cannot be built."""
    kind = load_class(optimizer)
    given, of_groups = arguments_of(arguments)
    try:
        made: torch.optim.Optimizer = kind([{**group, **of_groups} for group in groups], lr=lr, **given)
    except (Exception, SystemExit) as error:  # whatever the class says of its arguments
        what = f"with --optimizer-args {arguments}" if arguments else "it cannot be built"
        raise failure(optimizer, what, error) from error
    if any("lr" not in group for group in made.param_groups):
        raise InputError(f"--optimizer {optimizer}: its groups have no rate lr that a schedule could set")
    return made


# --- random numbers: nothing else in training draws from the global generators ----------------------------------------


def seed_random(seed: int) -> None:
    """Seed the global generators of PyTorch, numpy and Python, from which a class may draw."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of these generators as tensors and plain values."""
    name, words, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    kept = [str(name), torch.from_numpy(np.asarray(words).astype(np.int64)), *(np.asarray(one).item() for one in rest)]
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": kept, "python": random.getstate()}


def restore_random(state: Mapping[str, Any]) -> None:
    """Set the generators to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, words, *rest = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


# --- state -----------------------------------------------------------------------------------------------------------


def pack(label: str, optimizer: torch.optim.Optimizer) -> tuple[Tensors, Any]:
    """Return the tensors of an optimizer's state dict and of the generators by name, and the rest as JSON.

    Raises UnsavableError for anything in it that is neither a tensor nor a plain value.
    """
    tensors: Tensors = {}
    return tensors, {
        "optimizer": _packed(optimizer.state_dict(), f"{label}.", tensors, "state_dict()"),
        "random": _packed(random_state(), f"{label}.", tensors, "random"),
    }


def unpack(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], content: Any) -> None:
    """Load what `pack` returned: every tensor with the dtype, the strides and the device that it had."""
    state = _unpacked(content["optimizer"], tensors)
    optimizer.load_state_dict(_without_text(_unpacked(content["optimizer"], tensors)))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, saved in state["state"].items():  # torch.optim casts what it loads to the parameter's dtype and device
        if isinstance(index, int) and optimizer.state.get(parameters[index], {}).keys() == saved.keys():
            optimizer.state[parameters[index]] = saved
    restore_random(_unpacked(content["random"], tensors))


def _without_text(state: Any) -> Any:
    """Return a state dict with no text in the state of parameters, which torch.optim would take apart."""
    of_parameters = {
        index: {key: None if _has_text(value) else value for key, value in of.items()} if isinstance(of, dict) else of
        for index, of in state["state"].items()
    }
    return {**state, "state": of_parameters}


def _has_text(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return isinstance(value, str | bytes) or any(map(_has_text, inside))


def _packed(value: Any, prefix: str, tensors: Tensors, place: str) -> Any:
    if isinstance(value, Tensor):
        name = f"{prefix}{len(tensors)}"
        tensors[name] = value.detach().clone()  # a file holds no two tensors that share memory
        return {"tensor": [name, str(value.device), list(value.stride())]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if type(value) in (list, tuple):
        items = [_packed(one, prefix, tensors, f"{place}[{i}]") for i, one in enumerate(value)]
        return {type(value).__name__: items}
    if type(value) in (set, frozenset) and all(isinstance(one, int | str) for one in value):
        return {"set": sorted(value, key=lambda one: (str(type(one)), one))}
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
            name, device, strides = value
            saved = tensors[name]
            return torch.empty_strided(saved.shape, strides, dtype=saved.dtype, device=device).copy_(saved)
        case "bytes":
            return bytes.fromhex(value)
        case "dtype":
            return getattr(torch, value)
        case "list":
            return [_unpacked(one, tensors) for one in value]
        case "tuple":
            return tuple(_unpacked(one, tensors) for one in value)
        case "set":
            return set(value)
        case "dict":
            return {key: _unpacked(one, tensors) for key, one in value}
    raise KeyError(kind)

