"""Checks of what SimpleMuon takes: options of a group, parameters, gradients, state dicts.

Whatever cannot be stepped is refused in one sentence, before anything has changed: TypeError for a name or a kind of
value, ValueError for a value or a shape.
"""

import difflib
import functools
import inspect
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ngpt.config import muon_refusal, step_options
from ngpt.optim import sharded, steps

Group = dict[str, Any]

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
RATES = ("lr", "weight_decay", "momentum")
"""Options that schedules change at every step, and that may be tensors"""

FROM_TORCH = (*RATES, "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")
"""The options of torch.optim.Muon, in its order"""

WITHOUT_EFFECT = {"foreach", "fused", "capturable"}
"""Options of torch's other optimizers that change how a step is computed, not what"""

CHANGING = {"maximize": "negate the loss", "differentiable": "its step is not differentiable"}
"""Options of torch's other optimizers that would change the step, and what to say where they are on"""


@functools.cache
def option_names() -> tuple[str, ...]:
    """Return the names of all options of a group."""
    return (*FROM_TORCH, "polar_dtype", "sphere_dim", *step_options())


_structure = operator.itemgetter(*(name for name in option_names() if name not in RATES))


def structure(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what is checked in full only when it has changed: all options but the rates, and how many keys there are.

    A new key may be a misspelt option.
    """
    return len(group), *_structure(group)


# --- options ---------------------------------------------------------------------------------------------------------


def unknown_option(name: str) -> TypeError:
    """Return the error for an option that SimpleMuon does not have, with the nearest one that it has."""
    nearest = _nearest(name, cutoff=0.6)
    return TypeError(f"SimpleMuon has no option {name}" + (f"; did you mean {nearest}?" if nearest else ""))


def _nearest(name: str, cutoff: float) -> str | None:
    """Return the option that `name` may be a misspelling of; a flag's name stands for its keyword."""
    meant = {option: option for option in option_names()}
    meant |= {option.name: keyword for keyword, option in step_options().items()}
    found = difflib.get_close_matches(name.lower(), meant, n=1, cutoff=cutoff)
    return meant[found[0]] if found else None


def check_names(group: Mapping[str, Any]) -> None:
    """Raise TypeError for a misspelt option, or one of another optimizer that would change the step.

    Other keys are left alone, as in torch: schedulers and other libraries keep values of their own in the groups. A
    name that contains an option's, such as `initial_lr` or `max_momentum`, is one of those.
    """
    names = option_names()
    for name in group:
        if name in names or not isinstance(name, str):
            continue
        if name in CHANGING and group[name]:
            raise TypeError(f"SimpleMuon has no option {name}; {CHANGING[name]}")
        derived = any(f"_{option}_" in f"_{name}_" and option != "geodesic" for option in names)
        if not derived and _nearest(name, cutoff=0.82):
            raise unknown_option(name)


def check_options(group: Group) -> None:
    """Raise ValueError or TypeError for options that SimpleMuon cannot step; write `polar_dtype` as a name."""
    group["polar_dtype"] = str(group["polar_dtype"]).removeprefix("torch.")
    for name in (*RATES, "eps", "beta2"):
        value = group[name]
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{name} must be one number, not a tensor of shape {tuple(value.shape)}")
        if not isinstance(value, (Real, Tensor)):
            raise TypeError(f"{name} must be a number, not {value!r}")
    if not isinstance(group["ns_steps"], int):
        raise TypeError(f"ns_steps must be a whole number, not {group['ns_steps']!r}")
    if group["nesterov"] not in (True, False):
        raise TypeError(f"nesterov must be True or False, not {group['nesterov']!r}")
    if not _three_numbers(group["ns_coefficients"]):
        raise ValueError(f"ns_coefficients must be three finite numbers: {group['ns_coefficients']!r}")
    group["ns_coefficients"] = tuple(group["ns_coefficients"])
    if reason := muon_refusal(group):
        raise ValueError(reason)


def _three_numbers(value: Any) -> bool:
    listed = isinstance(value, (tuple, list)) and len(value) == 3
    return listed and all(isinstance(one, Real) and math.isfinite(one) for one in value)


def rates_fit(group: Mapping[str, Any]) -> bool:
    """Return whether rate, decay and momentum are numbers in range; a tensor is not read, which would wait for a GPU.

    False may also mean an unusual kind of number: `check_options` decides.
    """
    lr, wd, mu = group["lr"], group["weight_decay"], group["momentum"]
    return (
        (0 <= lr < math.inf if isinstance(lr, (float, int)) else isinstance(lr, Tensor) and lr.numel() == 1)
        and (0 <= wd < math.inf if isinstance(wd, (float, int)) else isinstance(wd, Tensor) and wd.numel() == 1)
        and (0 <= mu < 1 if isinstance(mu, (float, int)) else isinstance(mu, Tensor) and mu.numel() == 1)
    )


# --- parameters and gradients ----------------------------------------------------------------------------------------


def _named(parameter: Tensor) -> str:
    return f"a parameter of shape {tuple(parameter.shape)} and dtype {parameter.dtype}"


def check_parameter(parameter: Tensor) -> None:
    """Raise TypeError or ValueError unless `parameter` is a real, dense matrix whose entries can be written to."""
    if parameter.ndim != 2:
        raise ValueError(f"SimpleMuon moves matrices, not {_named(parameter)}; give it to AdamW, for example")
    if parameter.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"SimpleMuon moves matrices in {names}, not {_named(parameter)}; leave it out")
    if parameter.layout != torch.strided:
        raise TypeError(f"SimpleMuon moves dense matrices, not {_named(parameter)} and layout {parameter.layout}")
    if any(size > 1 and stride == 0 for size, stride in zip(parameter.shape, parameter.stride(), strict=True)):
        raise ValueError(f"entries of {_named(parameter)} share memory, as after expand(); clone() it first")
    sharded.shard_layout(parameter)


def check_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Raise TypeError or ValueError unless `gradient` can be that of `parameter`; floats of another dtype can."""
    if gradient.layout != torch.strided:
        raise TypeError(f"SimpleMuon takes no sparse gradient, as {_named(parameter)} has; make it dense")
    if gradient.dtype not in DTYPES:
        raise TypeError(f"{_named(parameter)} has a gradient of dtype {gradient.dtype}; give it a real one")
    if gradient.shape != parameter.shape:
        raise ValueError(f"{_named(parameter)} has a gradient of shape {tuple(gradient.shape)}; compute it anew")
    if gradient.device != parameter.device:
        raise ValueError(
            f"{_named(parameter)} on {parameter.device} has a gradient on {gradient.device}; move it to the parameter"
        )


def check_state(parameter: Tensor, key: str, value: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless a tensor of the state has the shape and device that the step needs."""
    if tuple(value.shape) != tuple(shape) or value.device != parameter.device:
        raise ValueError(
            f"{_named(parameter)} on {parameter.device} has a {key} of shape {tuple(value.shape)} on {value.device}, "
            f"where the step needs {tuple(shape)}; clear its state to start anew"
        )


def check_memory(groups: Iterable[Group]) -> None:
    """Raise ValueError if parameters overlap in memory and a step that reads the weights would lose one's update.

    Otherwise one is moved after the other, as by torch.optim.Muon.
    """
    by_storage: dict[Any, list[tuple[Tensor, Group]]] = {}
    for group in groups:
        for parameter in group["params"]:
            plain = type(parameter) in (Tensor, torch.nn.Parameter) and parameter.device.type != "meta"
            if plain and parameter.numel():
                place = parameter.device, parameter.untyped_storage().data_ptr()
                by_storage.setdefault(place, []).append((parameter, group))
    for members in by_storage.values():
        if len(members) == 1 or not any(steps.reading_weights(group) for _, group in members):
            continue
        taken = torch.zeros(members[0][0].untyped_storage().nbytes(), dtype=torch.bool)
        for parameter, _ in members:
            size = parameter.itemsize
            strides, start = (*(stride * size for stride in parameter.stride()), 1), parameter.storage_offset() * size
            bytes_of = taken.as_strided((*parameter.shape, size), strides, start)
            if bytes_of.any():
                raise ValueError(
                    f"{_named(parameter)} shares memory with another one, and the options read the weights: one of two "
                    "updates would be lost; pass it once, or clone() it"
                )
            bytes_of.fill_(True)


# --- state dicts -----------------------------------------------------------------------------------------------------


def fitting(content: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
    """Return a state dict for an optimizer with these `groups`: the given one, with options that it lacks from them.

    Raises ValueError or TypeError if it cannot fit. Where the numbers of groups or parameters differ, torch says so.
    """
    if missing := {"state", "param_groups"} - set(content):
        raise ValueError(f"not the state dict of an optimizer: it has no {' and no '.join(sorted(missing))}")
    saved = content["param_groups"]
    if [len(group["params"]) for group in saved] != [len(group["params"]) for group in groups]:
        return dict(content)
    completed = []
    for group, given in zip(groups, saved, strict=True):
        check_names(given)
        if other := sorted(name for name in given if name in _of_other_optimizers() and name not in group):
            raise ValueError(f"the state dict is that of another optimizer: its options are {', '.join(other)}")
        merged = {name: group[name] for name in option_names()} | dict(given)
        try:
            check_options(merged)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the options in the state dict do not fit: {error}") from error
        completed.append(merged)
        for name, parameter in zip(given["params"], group["params"], strict=True):
            _check_loaded(parameter, content["state"].get(name, {}), merged)
    return {**content, "param_groups": completed}


def _check_loaded(parameter: Tensor, state: Mapping[str, Any], group: Group) -> None:
    """Raise ValueError unless the saved state of a parameter is empty or what its group needs."""
    if other := sorted(str(key) for key in state if key not in steps.STATE):
        raise ValueError(f"the state dict is that of another optimizer: its state is {', '.join(other)}")
    for key, (shape, _) in (steps.state_types(parameter, group) if state else {}).items():
        value = state.get(key)
        if not isinstance(value, Tensor):
            raise ValueError(f"the state dict has no {key} for {_named(parameter)}; start without its state")
        if tuple(value.shape) != shape or not value.is_floating_point():
            raise ValueError(
                f"the state dict has a {key} of shape {tuple(value.shape)} and dtype {value.dtype} for "
                f"{_named(parameter)}, which needs {shape}; it was saved with other parameters or options"
            )
        if shape == tuple(parameter.shape) and sharded.local_of(value).shape != sharded.local_of(parameter).shape:
            raise ValueError(f"the state dict has a {key} that is not sharded as {_named(parameter)} is")


@functools.cache
def _of_other_optimizers() -> Collection[str]:
    """Return the options that only torch's other optimizers have, such as `betas`."""
    kinds = [kind for kind in vars(torch.optim).values() if inspect.isclass(kind)]
    found = chain.from_iterable(
        inspect.signature(kind).parameters for kind in kinds if issubclass(kind, torch.optim.Optimizer)
    )
    return set(found) - {"params", "defaults", *option_names(), *WITHOUT_EFFECT, *CHANGING}
