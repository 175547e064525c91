"""SimpleMuon: the update rule of `ngpt.optim.rule` as a PyTorch optimizer; with its defaults it is torch.optim.Muon."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ngpt import kernels, polar
from ngpt.config import step_options
from ngpt.optim import admission, sharded, steps
from ngpt.optim.sharded_stack import ShardedStack
from ngpt.optim.stack import Stack

SLICE_BYTES = {"cpu": 2**24, "cuda": 2**28}
"""Weights, counted as float32, that are stepped at once: 16 MiB, 256 MiB on a GPU, more than a batch needs to be fast.
What a step needs beside weights and state is a small multiple of it."""


class SimpleMuon(torch.optim.Optimizer):
    """Muon (K. Jordan 2024) and its relatives on the sphere, for the matrices of any model.

    The steps and their order are in `ngpt.optim.rule`. Matrices (m, n) of one shape and dtype are one batch, in slices
    of at most `SLICE_BYTES`; on a CPU, matrices from 512 rows on are stepped one by one.
    With every option at its default the weights equal those of torch.optim.Muon to the last bit, for gradients above
    its eps of 1e-7 (tests/optim/test_muon.py); with eps=1e-7, for all. Options are read from the groups at every step
    and may differ between groups. State dicts of torch.optim.Muon can be loaded, and torch.optim.Muon loads those of
    this class.

    Arguments of torch.optim.Muon, in its order:

    params: matrices, or groups of them.
    lr: learning rate; where the unit vectors are rows and the rows of O have length 1, each turns by at most about lr
        radians a step.
    weight_decay: decoupled decay; a step multiplies W by 1 - lr * weight_decay.
    momentum: mu in [0, 1), an exponential moving average of the gradients.
    nesterov: feed the polar factor (1 - mu) G + mu M instead of M.
    ns_coefficients: a, b, c of the orthogonalizer "newton-schulz"; no other one takes them.
    eps: smallest norm that the orthogonalizer divides by, 1e-7 in torch; 0.0: none, so that a step does not depend on
        the scale of the gradient.
    ns_steps: iterations of the orthogonalizer.
    adjust_lr_fn: factor by shape. None or "original": sqrt(max(1, m/n)); "match_rms_adamw": 0.2 sqrt(max(m, n));
        "none": 1.

    Further arguments:

    polar_dtype: precision of the orthogonalizer's products.
    sphere_dim: dimension along which the matrices are made of unit vectors, 0 or -1; None: they are not.
    orthogonalizer: "newton-schulz", "newton-schulz-cubic", "newton-schulz-literal", "you", "polar-express" or "svd"
        (`ngpt.polar`).
    match_step: "rms" gives O the Frobenius norm of an exact polar factor; "angle" makes lr the mean rotation of each
        matrix in radians; "none".
    geodesic: rotate each unit vector by the angle lr ("lr") or lr |u| ("lr-norm") instead of stepping straight; None.
    tangent: remove the radial part of the "gradient", of the update "before" the polar factor, "after" it, or in
        "both" places; "none".
    momentum_transport: carry the momentum along with the vectors: "project", "parallel", "rotate" or "none".
    normuon: NorMuon's variance reduction over the shorter side ("short-axis") or over rows ("rows"); None.
    beta2: decay of NorMuon's second moment, in [0, 1).
    cautious_wd: decay only the entries that the update does not move away from zero.
    max_angle: rotate no unit vector by more than this many radians in a step; None.

    Those from `orthogonalizer` on are the step options of `ngpt.config.OptimConfig`; SimpleMuon accepts every option
    declared there. `geodesic`, `tangent`, `momentum_transport`, `max_angle` and "angle" need `sphere_dim`. With
    `geodesic`, pass weight_decay=0.0 or cautious_wd=True: a rotation cannot decay all entries.

    `lr` and `momentum` may be 0-dimensional tensors on the device of the parameters: a CUDA graph then replays a step
    with the values they hold. Parameters may be sharded (DTensor, as by FSDP2) along either dimension; their state is
    then sharded too, all ranks call `step` together, and each matrix is gathered on one of them for its polar factor.

    State of each parameter: `momentum_buffer`, of its shape and its gradient's dtype; with `normuon`,
    `second_momentum_buffer`, (m, 1) or (1, n), at least float32. A parameter without a gradient or without entries is
    skipped. A zero gradient with zero momentum changes nothing except by decay. A geodesic step stays on the sphere by
    itself, a linear step only together with `ngpt.optim.projection.LazyProjection`.

    Raises ValueError for options that are out of range or do not fit together and for what is no matrix, TypeError for
    unknown or misspelt options and for dtypes that cannot be stepped: at construction, at the step after an option was
    changed, and when a state dict is loaded. Nothing has changed then. Other keys of a group are left alone.
    """

    _checked: Sequence[Any] = ()  # then the options of each group when they were checked; not part of the state

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float | Tensor = 0.95,
        nesterov: bool = True,
        ns_coefficients: Sequence[float] = polar.QUINTIC,
        eps: float = 0.0,
        ns_steps: int = 5,
        adjust_lr_fn: steps.AdjustLr | None = None,
        *,
        polar_dtype: torch.dtype = torch.bfloat16,
        sphere_dim: int | None = None,
        **options: Any,
    ) -> None:
        known = {name: option.default for name, option in step_options().items()}
        for name in options:
            if name not in known:
                raise admission.unknown_option(name)
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn,
            "polar_dtype": polar_dtype, "sphere_dim": sphere_dim, **known, **options,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own; raises ValueError or TypeError if they are refused."""
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1:])
        except (TypeError, ValueError):
            del self.param_groups[-1]
            raise
        self._checked = [*self._checked, admission.structure(self.param_groups[-1])]

    def _check(self, groups: Iterable[dict[str, Any]]) -> None:
        """Raise ValueError or TypeError for options and parameters that SimpleMuon cannot step."""
        for group in groups:
            admission.check_names(group)
            admission.check_options(group)
            for parameter in group["params"]:
                admission.check_parameter(parameter)
        admission.check_memory(self.param_groups)

    def _check_changes(self) -> None:
        """Check the options that have changed since the last step; microseconds where none has."""
        if [admission.structure(group) for group in self.param_groups] != self._checked:
            self._check(self.param_groups)
            self._checked = [admission.structure(group) for group in self.param_groups]
        for group in self.param_groups:
            if not admission.rates_fit(group):
                admission.check_options(group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as torch does, but complete the options, copy the state and keep its precision, which torch rounds.

        Options that the state dict lacks, as one of torch.optim.Muon or of an earlier version does, stay as they are.
        Raises ValueError or TypeError for one that does not fit, and then nothing has changed.
        """
        loaded: dict[str, Any] = {}

        def complete(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> dict[str, Any]:
            loaded.update(admission.fitting(content, optimizer.param_groups))
            return loaded

        last = self.register_load_state_dict_pre_hook(complete)  # after the caller's, which may adapt the content
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        names = (name for group in loaded["param_groups"] for name in group["params"])  # numbers, or DCP's names
        for name, parameter in zip(names, parameters, strict=True):
            for key, value in loaded["state"].get(name, {}).items():
                self.state[parameter][key] = value.to(parameter.device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step and return the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_changes()
        batches = self._batches()
        for stack in chain(*batches[:1]):
            stack.start()
        for number, stacks in enumerate(batches):
            for stack in chain(*batches[number + 1 : number + 2]):
                stack.start()  # the transfers of the next batch overlap with the products of this one
            _move(stacks)
            for stack in chain(*batches[max(0, number - 1) : number]):
                stack.finish()
        for stack in chain(*batches[-1:]):
            stack.finish()
        return loss

    def state_types(self) -> dict[Tensor, steps.StateTypes]:
        """Return the shape and dtype of each state tensor that a step keeps, by parameter and key.

        For gradients of their parameters' dtype.
        """
        return {W: steps.state_types(W, group) for group in self.param_groups for W in group["params"]}

    def _batches(self) -> list[list[Stack | ShardedStack]]:
        """Return the matrices that have a gradient as stacks, grouped by the settings of their polar factor.

        A batch of more than `SLICE_BYTES` is cut into several.
        """
        owners = _owners(parameter for group in self.param_groups for parameter in group["params"])
        alike = [(of, group) for group in self.param_groups for of in _alike(group["params"])]
        states = [[self._state_of(parameter, group) for parameter in of] for of, group in alike]
        batches: dict[Any, list[list[Stack | ShardedStack]]] = defaultdict(list)
        room: dict[Any, int] = {}
        for (parameters, group), their in zip(alike, states, strict=True):
            if not parameters[0].numel():
                continue
            first, at_once, at = parameters[0], _at_once(parameters[0]), 0
            settings = (
                *(group[name] for name in ("orthogonalizer", "ns_coefficients", "eps", "ns_steps", "polar_dtype")),
                _stack(parameters[:1], their[:1], group, owners).input_dtype,
                first.shape, first.dtype, first.device, sharded.shard_layout(first),
            )  # fmt: skip
            while at < len(parameters):
                if not room.get(settings):
                    batches[settings].append([])
                    room[settings] = at_once
                end = at + room[settings]
                batches[settings][-1].append(_stack(parameters[at:end], their[at:end], group, owners))
                room[settings] -= len(parameters[at:end])
                at = end
        return [batch for of in batches.values() for batch in of]

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the state of a parameter, zero at first; raise ValueError if it does not fit the parameter."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        for key, (shape, dtype) in steps.state_types(parameter, group, gradient=gradient.dtype).items():
            if key not in state:
                state[key] = sharded.zeros_like(parameter, shape, dtype)
            admission.check_state(parameter, key, state[key], shape)
            if state[key].dtype != dtype:
                state[key] = state[key].to(dtype)
        return state


def _move(stacks: list[Stack | ShardedStack]) -> None:
    """Take the steps between `start` and `finish` for one batch; its memory is free when this returns."""
    group, sizes = stacks[0].group, [stack.count for stack in stacks]
    X = stacks[0].parameters[0].new_empty(sum(sizes), *stacks[0].shape, dtype=stacks[0].input_dtype)
    norms: list[Tensor] = []
    for stack, part in zip(stacks, X.split(sizes), strict=True):
        norms += stack.write_polar_input(part)
    O = polar.orthogonalize(
        X, method=group["orthogonalizer"], steps=group["ns_steps"], dtype=steps.polar_dtype(group),
        norm=torch.stack(norms).reshape(-1, 1, 1) if 0 < len(norms) == len(X) else None,
        quintic=group["ns_coefficients"], eps=group["eps"],
    )  # fmt: skip
    del X, part
    for stack, part in zip(stacks, O.split(sizes), strict=True):
        stack.apply(part)


def _at_once(parameter: Tensor) -> int:
    """Return how many matrices like this one are stepped at once, over all ranks."""
    layout = sharded.shard_layout(parameter)
    most = SLICE_BYTES.get(parameter.device.type, SLICE_BYTES["cuda"]) // (4 * parameter.numel())
    if kernels.one_by_one(min(parameter.shape), parameter.device):
        most = 1  # a batch gains nothing
    return max(1, most) * (1 if layout is None else layout.count)


def _stack(
    parameters: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any], owners: dict[Tensor, int]
) -> Stack | ShardedStack:
    """Return parameters of one kind as a stack."""
    gradients = [sharded.placed_like(parameter.grad, parameter) for parameter in parameters]  # type: ignore[arg-type]
    if sharded.shard_layout(parameters[0]) is not None:
        return ShardedStack(parameters, gradients, states, group, [owners[parameter] for parameter in parameters])
    here, given = ([sharded.local_of(tensor) for tensor in of] for of in (parameters, gradients))
    local = [{key: sharded.local_of(value) for key, value in state.items()} for state in states]
    return Stack(here, given, local, group)


def _alike(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Group the parameters that have a gradient by shape, dtype, device and layout, and check one of each kind."""
    stacks: dict[Any, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if (gradient := parameter.grad) is not None:
            kind = parameter.shape, parameter.dtype, parameter.device, sharded.shard_layout(parameter)
            given = gradient.shape, gradient.dtype, gradient.device, gradient.layout
            stacks[kind, given].append(parameter)
    for first, *_ in stacks.values():
        admission.check_parameter(first)
        admission.check_gradient(first, first.grad)  # type: ignore[arg-type]
    return list(stacks.values())


def _owners(parameters: Iterable[Tensor]) -> dict[Tensor, int]:
    """Return the rank that orthogonalizes each sharded matrix with a gradient, with balanced work."""
    by_group: dict[Any, list[tuple[Tensor, int]]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None and (layout := sharded.shard_layout(parameter)) is not None:
            by_group[layout.group].append((parameter, layout.count))
    found: dict[Tensor, int] = {}
    for members in by_group.values():
        work = [sharded.polar_work(parameter.shape) for parameter, _ in members]
        ranks = sharded.balance(work, [0.0] * members[0][1])
        found |= dict(zip((parameter for parameter, _ in members), ranks, strict=True))
    return found
