"""SimpleMuon: momentum, orthogonalise, move; with its options at their plain values it is torch.optim.Muon."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ngpt import polar
from ngpt.config import Orthogonalizer
from ngpt.optim import steps


class SimpleMuon(torch.optim.Optimizer):
    """Muon (K. Jordan 2024) on stacks of same-shape matrices.

    For each group of matrices (m, n) of one shape and dtype, as one batch, in this order (`ngpt.optim.steps`):

    1. M <- mu M + (1 - mu) G; with Nesterov the input is (1 - mu) G + mu M. G is never written to.
    2. O = polar(input), by `orthogonalizer` in `ns_steps` iterations, in `polar_dtype`.
    3. W <- W (1 - lr weight_decay).
    4. W <- W - lr shape_factor O.

    Arguments are those of torch.optim.Muon where it has them, and the defaults are its defaults: the two then agree
    to the last bit (tests/optim/test_muon.py). Further: `orthogonalizer` names a method of `ngpt.polar`;
    `polar_dtype` is the precision of its matrix products; `adjust_lr_fn` may also be "none".

    Units: on unit vectors of a matrix whose polar factor has unit rows, lr is the rotation in radians to first order.

    State of each parameter: `momentum_buffer`, of the parameter's shape and dtype. A parameter without a gradient is
    skipped. A zero gradient with zero momentum moves nothing. Stays on the sphere only together with
    `ngpt.optim.projection.LazyProjection`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        *,
        ns_steps: int = 5,
        adjust_lr_fn: steps.AdjustLr | None = None,
        orthogonalizer: Orthogonalizer = "newton-schulz",
        polar_dtype: torch.dtype = torch.bfloat16,
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

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; returns the closure's loss if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for stack in _same_shape(group["params"]):
                self._move(stack, group)
        return loss

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        lr, mu = float(group["lr"]), group["momentum"]
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]

        G = torch.stack([parameter.grad for parameter in parameters])  # type: ignore[misc]
        M = steps.momentum(torch.stack(buffers), G, mu)
        O = polar.orthogonalize(
            steps.nesterov(M, G, mu) if group["nesterov"] else M,
            method=group["orthogonalizer"],
            steps=group["ns_steps"],
            dtype=getattr(torch, group["polar_dtype"]),
        )
        W = steps.decay(torch.stack(parameters), lr, group["weight_decay"])
        W = steps.linear_move(W, O, lr * steps.shape_factor(W.shape, group["adjust_lr_fn"]))
        for parameter, buffer, W_i, M_i in zip(parameters, buffers, W, M, strict=True):
            parameter.copy_(W_i)
            buffer.copy_(M_i)


def _validate(group: dict[str, Any]) -> None:
    for name in ("lr", "weight_decay"):
        if not 0.0 <= float(group[name]) < float("inf"):
            raise ValueError(f"{name} must be finite and not negative: {group[name]}")
    if not 0.0 <= group["momentum"] < 1.0:
        raise ValueError(f"momentum must lie in [0, 1): {group['momentum']}")
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
