"""SimpleMuon: the update rule of `ngpt.optim.rule` as a PyTorch optimizer; with its defaults it is torch.optim.Muon."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ngpt import polar
from ngpt.config import muon_refusal, step_options
from ngpt.optim import sharded, steps
from ngpt.optim.sharded_stack import ShardedStack
from ngpt.optim.stack import Stack


class SimpleMuon(torch.optim.Optimizer):
    """Muon (K. Jordan 2024) and its relatives on the sphere, for the matrices of any model.

    The steps and their order are in `ngpt.optim.rule`. Matrices (m, n) of one shape and dtype are one batch.
    With every option at its default the weights equal those of torch.optim.Muon to the last bit, for gradients above
    its eps of 1e-7 (tests/optim/test_muon.py). Options are read from the groups at every step and may differ between
    groups.

    Arguments of torch.optim.Muon:

    params: matrices, or groups of them.
    lr: learning rate; where O has rows of length 1 along unit vectors, radians per step to first order.
    weight_decay: decoupled decay; a step multiplies W by 1 - lr * weight_decay.
    momentum: mu in [0, 1), an exponential moving average of the gradients.
    nesterov: feed the polar factor (1 - mu) G + mu M instead of M.
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
    tangent: remove the radial part of the update "before" the polar factor, "after" it, "both" or "none".
    momentum_transport: carry the momentum along with the vectors: "project", "parallel", "rotate" or "none".
    normuon: NorMuon's variance reduction over the shorter side ("short-axis") or over rows ("rows"); None.
    beta2: decay of NorMuon's second moment, in [0, 1).
    cautious_wd: decay only entries that the update does not already lengthen.

    Those from `orthogonalizer` on are the step options of `ngpt.config.OptimConfig`; SimpleMuon accepts every option
    declared there. `geodesic`, `tangent`, `momentum_transport` and "angle" need `sphere_dim`. With `geodesic`, pass
    weight_decay=0.0 or cautious_wd=True: a rotation cannot decay all entries.

    `lr` and `momentum` may be 0-dimensional tensors on the device of the parameters: a CUDA graph then replays a step
    with the values they hold. Parameters may be sharded (DTensor, as by FSDP2) along either dimension; their state is
    then sharded too, all ranks call `step` together, and each matrix is gathered on one of them for its polar factor.

    State of each parameter: `momentum_buffer`, of its shape and dtype; with `normuon`, `second_momentum_buffer`, (m, 1)
    or (1, n), at least float32. A parameter without a gradient is skipped. A zero gradient with zero momentum changes
    nothing except by decay. A geodesic step stays on the sphere by itself, a linear step only together with
    `ngpt.optim.projection.LazyProjection`. Raises ValueError for options that are out of range or do not fit together,
    TypeError for unknown ones.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float | Tensor = 0.95,
        nesterov: bool = True,
        *,
        ns_steps: int = 5,
        adjust_lr_fn: steps.AdjustLr | None = None,
        polar_dtype: torch.dtype = torch.bfloat16,
        sphere_dim: int | None = None,
        **options: Any,
    ) -> None:
        known = {name: option.default for name, option in step_options().items()}
        if unknown := sorted(set(options) - set(known)):
            raise TypeError(f"SimpleMuon has no option {', '.join(unknown)}")
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn, "polar_dtype": polar_dtype, "sphere_dim": sphere_dim, **known, **options,
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own; raises ValueError if they are refused."""
        super().add_param_group(param_group)
        try:
            _validate(self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as torch does, but keep the precision of the second moment, which torch rounds to the parameter's."""
        super().load_state_dict(state_dict)
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        names = (name for group in state_dict["param_groups"] for name in group["params"])  # numbers, or DCP's names
        for name, parameter in zip(names, parameters, strict=True):
            state = state_dict["state"].get(name, {})
            if "second_momentum_buffer" in state:
                V = state["second_momentum_buffer"].to(parameter.device, copy=True)
                self.state[parameter]["second_momentum_buffer"] = V

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step and return the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = self._batches()
        for stack in chain(*batches[:1]):
            stack.start()
        for number, stacks in enumerate(batches):
            for stack in chain(*batches[number + 1 : number + 2]):
                stack.start()  # the transfers of the next batch overlap with the products of this one
            group, sizes = stacks[0].group, [stack.count for stack in stacks]
            X = stacks[0].parameters[0].new_empty(sum(sizes), *stacks[0].shape, dtype=stacks[0].input_dtype)
            norms: list[Tensor] = []
            for stack, part in zip(stacks, X.split(sizes), strict=True):
                norms += stack.write_polar_input(part)
            O = polar.orthogonalize(
                X, method=group["orthogonalizer"], steps=group["ns_steps"], dtype=steps.polar_dtype(group),
                norm=torch.stack(norms).reshape(-1, 1, 1) if 0 < len(norms) == len(X) else None,
            )  # fmt: skip
            for stack, part in zip(stacks, O.split(sizes), strict=True):
                stack.apply(part)
            for stack in chain(*batches[max(0, number - 1) : number]):
                stack.finish()
        for stack in chain(*batches[-1:]):
            stack.finish()
        return loss

    def state_types(self) -> dict[Tensor, dict[str, tuple[tuple[int, ...], torch.dtype]]]:
        """Return the shape and dtype of each state tensor that a step keeps, by parameter and key."""
        types: dict[Tensor, dict[str, tuple[tuple[int, ...], torch.dtype]]] = {}
        for group in self.param_groups:
            for W in group["params"]:
                types[W] = {"momentum_buffer": (tuple(W.shape), W.dtype)}
                if group["normuon"] is not None:
                    shape = steps.second_moment_shape(W.shape, group["normuon"])
                    types[W]["second_momentum_buffer"] = shape, torch.promote_types(W.dtype, torch.float32)
        return types

    def _batches(self) -> list[list[Stack | ShardedStack]]:
        """Return the matrices that have a gradient as stacks, grouped by the settings of their polar factor."""
        owners = _owners(parameter for group in self.param_groups for parameter in group["params"])
        batches: dict[Any, list[Stack | ShardedStack]] = defaultdict(list)
        for group in self.param_groups:
            for parameters in _alike(group["params"]):
                gradients = [sharded.placed_like(parameter.grad, parameter) for parameter in parameters]  # type: ignore[arg-type]
                states = [self._state_of(parameter, group) for parameter in parameters]
                stack: Stack | ShardedStack
                if sharded.shard_layout(parameters[0]) is None:
                    here, given = ([sharded.local_of(tensor) for tensor in of] for of in (parameters, gradients))
                    local = [{key: sharded.local_of(value) for key, value in state.items()} for state in states]
                    stack = Stack(here, given, local, group)
                else:
                    owned_by = [owners[parameter] for parameter in parameters]
                    stack = ShardedStack(parameters, gradients, states, group, owned_by)
                first = stack.parameters[0]
                settings = group["orthogonalizer"], group["ns_steps"], group["polar_dtype"]
                batches[settings, stack.input_dtype, stack.shape, first.dtype, first.device].append(stack)
        return list(batches.values())

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the state of a parameter, zero at first."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        if group["normuon"] is not None and "second_momentum_buffer" not in state:
            shape = steps.second_moment_shape(parameter.shape, group["normuon"])
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            whole = torch.zeros(shape, dtype=dtype, device=parameter.device)
            state["second_momentum_buffer"] = sharded.shard_like(whole, parameter)
        return state


def _validate(group: dict[str, Any]) -> None:
    """Raise ValueError for options and parameters that SimpleMuon cannot step; write `polar_dtype` as a name."""
    group["polar_dtype"] = str(group["polar_dtype"]).removeprefix("torch.")
    if reason := muon_refusal(group):
        raise ValueError(reason)
    for parameter in group["params"]:
        if parameter.ndim != 2:
            raise ValueError(f"SimpleMuon moves matrices, not a parameter of shape {tuple(parameter.shape)}")
        sharded.shard_layout(parameter)


def _alike(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Group the parameters that have a gradient by shape, dtype, device and layout."""
    stacks: dict[Any, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            layout = sharded.shard_layout(parameter)
            stacks[parameter.shape, parameter.dtype, parameter.device, layout].append(parameter)
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
