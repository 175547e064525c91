"""SimpleMuon: momentum, orthogonalise, move; with its options at their plain values it is torch.optim.Muon."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ngpt import kernels, polar, sphere
from ngpt.config import GeodesicAngle, MatchStep, NorMuonAxis, Orthogonalizer, Tangent, Transport
from ngpt.kernels import twins
from ngpt.optim import steps


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
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, state in state_dict["state"].items():
            if "second_momentum_buffer" in state:
                V = state["second_momentum_buffer"].to(parameters[index].device, copy=True)
                self.state[parameters[index]]["second_momentum_buffer"] = V

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; returns the closure's loss if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches: dict[Any, list[_Stack]] = defaultdict(list)
        for group in self.param_groups:
            settings = (group["orthogonalizer"], group["ns_steps"], group["polar_dtype"])
            for parameters in _same_shape(group["params"]):
                stack = _Stack(parameters, [self.state[parameter] for parameter in parameters], group)
                first = parameters[0]
                batches[settings, stack.fused, first.shape, first.dtype, first.device].append(stack)
        for ((method, count, name), fused, shape, *_), stacks in batches.items():  # one batch, however vectors lie
            dtype, sizes = getattr(torch, name), [len(stack.parameters) for stack in stacks]
            X = stacks[0].parameters[0].new_empty(sum(sizes), *shape, dtype=dtype if fused else None)
            norms = [stack.write_polar_input(part) for stack, part in zip(stacks, X.split(sizes), strict=True)]
            norm = torch.cat([found for found in norms if found is not None]) if fused else None
            O = polar.orthogonalize(X, method=method, steps=count, dtype=dtype, norm=norm)
            for stack, O_stack in zip(stacks, O.split(sizes), strict=True):
                stack.move(O_stack)
        return loss


@dataclass
class _Stack:
    """Parameters of one group and shape in one step."""

    parameters: list[Tensor]
    states: list[dict[str, Tensor]]
    group: dict[str, Any]

    def __post_init__(self) -> None:
        for parameter, state in zip(self.parameters, self.states, strict=True):
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
        self.momenta = [state["momentum_buffer"] for state in self.states]

    @property
    def fused(self) -> bool:
        """Whether one kernel takes steps 1 and 2 and the norm, rounding once, to the precision of step 3."""
        group = self.group
        return (
            kernels.elementwise(self.parameters[0]) is not twins
            and group["tangent"] in ("none", "after")
            and group["orthogonalizer"] != "svd"
            and group["polar_dtype"] in ("float32", "bfloat16")
            and all(parameter.is_contiguous() for parameter in self.parameters)
        )

    def write_polar_input(self, X: Tensor) -> Tensor | None:
        """Steps 1 and 2, into X (number of parameters, m, n); where `fused`, returns the norms, (number, 1, 1)."""
        mu, nesterov = self.group["momentum"], self.group["nesterov"]
        gradients: list[Tensor] = [parameter.grad for parameter in self.parameters]  # type: ignore[misc]
        if self.fused:
            take = kernels.elementwise(X).momentum_step_
            norms = [
                take(M, G, mu, nesterov=nesterov, out=X_i) for M, G, X_i in zip(self.momenta, gradients, X, strict=True)
            ]
            return torch.stack(norms).reshape(-1, 1, 1)
        for M, G, X_i in zip(self.momenta, gradients, X, strict=True):
            steps.momentum(M, G, mu, out=M)
            steps.nesterov(M, G, mu, out=X_i) if nesterov else X_i.copy_(M)
        if self.group["tangent"] in ("before", "both"):
            X.copy_(sphere.tangent(torch.stack(self.parameters), X, dim=self._dim))
        return None

    def move(self, O: Tensor) -> None:
        """Steps 4 to 10; writes weights and state."""
        group = self.group
        if group["match_step"] == "rms":
            O = steps.match_rms(O)
        if group["normuon"] is not None:
            O = self._variance_reduction(O)
        scale, lr = steps.shape_factor(O.shape, group["adjust_lr_fn"]), group["lr"]
        needed = {name for name, value in OF_WEIGHTS.items() if group[name] != value}
        needed |= {"match_step"} if group["match_step"] == "angle" else set()
        first = self.parameters[0]
        if needed == {"geodesic"} and kernels.elementwise(first, first.size(self._dim)) is not twins:
            turn, fixed = kernels.elementwise(first).geodesic_move_, group["geodesic"] == "lr"
            for W, O_i in zip(self.parameters, O, strict=True):
                turn(W, O_i, lr, scale, fixed_angle=fixed, dim=self._dim)
        elif needed:
            self._move_by_weights(O, scale)
        else:
            for W, O_i in zip(self.parameters, O, strict=True):
                steps.linear_move(steps.decay(W, lr, group["weight_decay"]), O_i, lr * scale, out=W)

    def _move_by_weights(self, O: Tensor, scale: float) -> None:
        """Steps 6 to 10 where the direction depends on the weights, on all of them at once."""
        group, W, lr = self.group, torch.stack(self.parameters), self.group["lr"]
        weight_decay, geodesic = group["weight_decay"], group["geodesic"]
        if group["match_step"] == "angle":
            O, scale = steps.match_angle(W, O, dim=self._dim), 1.0
        if group["tangent"] in ("after", "both"):
            O = sphere.tangent(W, O.to(W.dtype), dim=self._dim)
        mask = steps.decay_mask(W, O) if group["cautious_wd"] else None
        if geodesic is None:
            moved = steps.linear_move(steps.decay(W, lr, weight_decay, mask), O, lr * scale)
        else:
            D = scale * O.to(W.dtype)
            D = D if mask is None else D + weight_decay * (mask * W)
            moved = steps.geodesic_move(W, D, lr, geodesic, dim=self._dim)
        if group["momentum_transport"] != "none":
            M = steps.transport(torch.stack(self.momenta), W, moved, group["momentum_transport"], dim=self._dim)
            torch._foreach_copy_(self.momenta, list(M))
        torch._foreach_copy_(self.parameters, list(moved))

    def _variance_reduction(self, O: Tensor) -> Tensor:
        kind = torch.promote_types(self.parameters[0].dtype, torch.float32)
        shape = steps.second_moment_shape(O.shape, self.group["normuon"])
        for state in self.states:
            if "second_momentum_buffer" not in state:
                state["second_momentum_buffer"] = torch.zeros(shape, dtype=kind, device=O.device)
        V = torch.stack([state["second_momentum_buffer"] for state in self.states])
        O, V = steps.variance_reduction(O, V, self.group["beta2"])
        for state, V_i in zip(self.states, V, strict=True):
            state["second_momentum_buffer"].copy_(V_i)
        return O

    @property
    def _dim(self) -> int:
        """The sphere axis, counted from the end, so that it is the same in a stack."""
        dim: int = self.group["sphere_dim"]
        return dim if dim < 0 else dim - 2


OF_WEIGHTS = {"geodesic": None, "tangent": "none", "momentum_transport": "none", "cautious_wd": False}
"""Options that need all weights of a shape at once, with the value at which they are off"""

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
        steps.shape_factor(parameter.shape, group["adjust_lr_fn"])


def _same_shape(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Parameters that have a gradient, in groups of one shape, dtype and device."""
    stacks: dict[Any, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            stacks[parameter.shape, parameter.dtype, parameter.device].append(parameter)
    return list(stacks.values())
