"""SimpleMuon: momentum, orthogonalise, move; with its options at their plain values it is torch.optim.Muon."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ngpt import polar
from ngpt.config import GeodesicAngle, MatchStep, NorMuonAxis, Orthogonalizer, Tangent, Transport
from ngpt.optim import sharded, steps
from ngpt.optim.stack import ShardedStack, Stack


class SimpleMuon(torch.optim.Optimizer):
    """Muon (K. Jordan 2024) on stacks of same-shape matrices, and its relatives on the sphere.

    For each group of matrices (m, n) of one shape and dtype, as one batch, in this order (`ngpt.optim.steps`), the
    plain step in capitals:

    1. MOMENTUM  M <- mu M + (1 - mu) G; with Nesterov the input is (1 - mu) G + mu M. G is never written to.
    2. tangent "before" or "both": the input loses its part along each unit vector.
    3. ORTHOGONALISE  O = polar(input), by `orthogonalizer` in `ns_steps` iterations, in `polar_dtype`.
    4. match_step "rms": |O|_F = sqrt(min(m, n)).
    5. normuon: variance reduction, |O|_F kept.
    6. SCALE  O by the shape factor `adjust_lr_fn`; with match_step "angle" by the mean rotation instead.
    7. tangent "after" or "both": O loses its part along each unit vector.
    8. decay  W <- W (1 - lr weight_decay); with cautious_wd only where O W >= 0.
    9. MOVE  W <- W - lr O, or `geodesic`: each unit vector rotates by lr ("lr") or lr |u| ("lr-norm") radians. There
       the decay of step 8 is a part of the direction, as it would otherwise leave the sphere.
    10. momentum_transport: M into the tangent space at the new W.

    Arguments are those of torch.optim.Muon where it has them, and the defaults are its defaults: the two then agree
    to the last bit (tests/optim/test_muon.py). `sphere_dim` is the dimension along which a group's matrices are made
    of unit vectors, 0 or -1; None where they are not, and then no option that needs the sphere is accepted.
    `adjust_lr_fn` may also be "none".

    `lr` and `momentum` may also be tensors of no dimension on the parameters' device, as a CUDA graph needs them, which
    replays a step with what they hold at the time. On a GPU with Triton, one kernel takes momentum, look-ahead and norm
    (`ngpt.kernels`), and one the geodesic step where no other option needs the weights.

    Parameters may lie in shards over ranks (DTensor, as of FSDP2), cut along either dimension; state then does as well,
    and all ranks call `step` together. Every matrix is made whole on one of them (`ngpt.optim.stack.ShardedStack`).

    Units: on unit vectors of a matrix whose polar factor has unit rows, lr is the rotation in radians to first order.

    State of each parameter: `momentum_buffer`, of the parameter's shape and dtype; with normuon also
    `second_momentum_buffer`, (m, 1) or (1, n), float32 at least. A parameter without a gradient is skipped. A zero
    gradient with zero momentum moves nothing but by decay. A linear step stays on the sphere only together with
    `ngpt.optim.projection.LazyProjection`, a geodesic step by itself. Raises ValueError on options that do not fit.
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
        orthogonalizer: Orthogonalizer = "newton-schulz",
        polar_dtype: torch.dtype = torch.bfloat16,
        sphere_dim: int | None = None,
        geodesic: GeodesicAngle | None = None,
        tangent: Tangent = "none",
        momentum_transport: Transport = "none",
        match_step: MatchStep = "none",
        normuon: NorMuonAxis | None = None,
        beta2: float = 0.95,
        cautious_wd: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "orthogonalizer": orthogonalizer,
            "polar_dtype": polar_dtype,
            "sphere_dim": sphere_dim,
            "geodesic": geodesic,
            "tangent": tangent,
            "momentum_transport": momentum_transport,
            "match_step": match_step,
            "normuon": normuon,
            "beta2": beta2,
            "cautious_wd": cautious_wd,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; every group is validated, the first ones included."""
        super().add_param_group(param_group)
        try:
            _validate(self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]
            raise

    def state_shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """The shape of each tensor that a step keeps for each parameter, in the order of the parameters."""
        shapes = []
        for group in self.param_groups:
            for parameter in group["params"]:
                shapes.append({"momentum_buffer": tuple(parameter.shape)})
                if group["normuon"] is not None:
                    shape = steps.second_moment_shape(parameter.shape, group["normuon"])
                    shapes[-1]["second_momentum_buffer"] = shape
        return shapes

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but the second moment keeps its precision: torch rounds all state to the parameter's dtype."""
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
        """One step; returns the closure's loss if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches: dict[Any, list[Stack | ShardedStack]] = defaultdict(list)
        for stack in self._stacks():
            group, first = stack.group, stack.parameters[0]
            settings = (group["orthogonalizer"], group["ns_steps"], group["polar_dtype"])
            alike = (stack.fused, stack.input_dtype, stack.shape, first.dtype, first.device)
            batches[settings, alike].append(stack)
        following, before = iter(batches.values()), list[Stack | ShardedStack]()
        _begin(next(following, []))
        for ((method, count, name), (fused, kind, shape, *_)), stacks in batches.items():  # however vectors lie
            _begin(next(following, []))  # what the next batch needs travels while this one is orthogonalised
            sizes, dtype = [stack.count for stack in stacks], getattr(torch, name)
            X = stacks[0].parameters[0].new_empty(sum(sizes), *shape, dtype=kind)
            norms = [stack.write_polar_input(part) for stack, part in zip(stacks, X.split(sizes), strict=True)]
            norm = torch.cat([found for found in norms if found is not None]) if fused else None
            O = polar.orthogonalize(X, method=method, steps=count, dtype=dtype, norm=norm) if len(X) else X.to(dtype)
            for stack, O_stack in zip(stacks, O.split(sizes), strict=True):
                stack.move(O_stack)
            _finish(before)
            before = stacks
        _finish(before)
        return loss

    def _stacks(self) -> list[Stack | ShardedStack]:
        """The matrices that have a gradient, in groups of one shape, with their state."""
        owners = _owners(parameter for group in self.param_groups for parameter in group["params"])
        stacks: list[Stack | ShardedStack] = []
        for group in self.param_groups:
            for parameters in _alike(group["params"]):
                gradients = [sharded.laid_like(parameter.grad, parameter) for parameter in parameters]  # type: ignore[arg-type]
                states = [self._state_of(parameter, group) for parameter in parameters]
                if sharded.cut_of(parameters[0]) is None:
                    here, given = ([sharded.local_of(tensor) for tensor in of] for of in (parameters, gradients))
                    local = [{key: sharded.local_of(value) for key, value in state.items()} for state in states]
                    stacks.append(Stack(here, given, local, group))
                else:
                    owned_by = [owners[parameter] for parameter in parameters]
                    stacks.append(ShardedStack(parameters, gradients, states, group, owned_by))
        return stacks

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """What is kept of a parameter, zero at first."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        if group["normuon"] is not None and "second_momentum_buffer" not in state:
            shape = steps.second_moment_shape(parameter.shape, group["normuon"])
            kind = torch.promote_types(parameter.dtype, torch.float32)
            whole = torch.zeros(shape, dtype=kind, device=parameter.device)
            state["second_momentum_buffer"] = sharded.cut_like(whole, parameter)
        return state


CHOICES = {
    "geodesic": (None, *get_args(GeodesicAngle)),
    "tangent": get_args(Tangent),
    "momentum_transport": get_args(Transport),
    "match_step": get_args(MatchStep),
    "normuon": (None, *get_args(NorMuonAxis)),
    "sphere_dim": (None, 0, 1, -1, -2),
}


def _validate(group: dict[str, Any]) -> None:
    for name in ("lr", "weight_decay"):
        if not 0.0 <= float(group[name]) < float("inf"):
            raise ValueError(f"{name} must be finite and not negative: {group[name]}")
    for name in ("momentum", "beta2"):
        if not 0.0 <= group[name] < 1.0:
            raise ValueError(f"{name} must lie in [0, 1): {group[name]}")
    for name, choices in CHOICES.items():
        if group[name] not in choices:
            raise ValueError(f"{name} must be one of {choices}: {group[name]!r}")
    plain = {"geodesic": None, "tangent": "none", "momentum_transport": "none"}
    needing = [name for name, value in plain.items() if group[name] != value]
    needing += ["match_step"] * (group["match_step"] == "angle")
    if group["sphere_dim"] is None and needing:
        raise ValueError(f"{needing[0]} = {group[needing[0]]!r} needs unit vectors: give their sphere_dim")
    if group["geodesic"] is not None and group["weight_decay"] and not group["cautious_wd"]:
        raise ValueError("weight_decay of all entries points along the vectors, which a geodesic step cannot lengthen")
    if group["orthogonalizer"] != "svd":
        polar.coefficients(group["orthogonalizer"], group["ns_steps"])
    group["polar_dtype"] = str(group["polar_dtype"]).removeprefix("torch.")
    if group["polar_dtype"] not in ("bfloat16", "float16", "float32", "float64"):
        raise ValueError(f"unknown polar_dtype: {group['polar_dtype']}")
    for parameter in group["params"]:
        if parameter.ndim != 2:
            raise ValueError(f"SimpleMuon moves matrices, not a parameter of shape {tuple(parameter.shape)}")
        sharded.cut_of(parameter)
        steps.shape_factor(parameter.shape, group["adjust_lr_fn"])


def _begin(stacks: Iterable[Stack | ShardedStack]) -> None:
    for stack in stacks:
        stack.begin()


def _finish(stacks: Iterable[Stack | ShardedStack]) -> None:
    for stack in stacks:
        stack.finish()


def _alike(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Parameters that have a gradient, in groups of one shape, dtype and device, and of one cut if they are sharded."""
    stacks: dict[Any, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            stacks[parameter.shape, parameter.dtype, parameter.device, sharded.cut_of(parameter)].append(parameter)
    return list(stacks.values())


def _owners(parameters: Iterable[Tensor]) -> dict[Tensor, int]:
    """Of each sharded matrix with a gradient the rank that orthogonalises it, so that all have about as much to do."""
    cuts: dict[Any, list[tuple[Tensor, int]]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None and (cut := sharded.cut_of(parameter)) is not None:
            cuts[cut.group].append((parameter, cut.count))
    found: dict[Tensor, int] = {}
    for of_group in cuts.values():
        work = [sharded.polar_work(parameter.shape) for parameter, _ in of_group]
        ranks = sharded.dealt(work, [0.0] * of_group[0][1])
        found |= dict(zip((parameter for parameter, _ in of_group), ranks, strict=True))
    return found
