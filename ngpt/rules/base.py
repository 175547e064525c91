"""Parts that the rules share: momentum, a direction, a straight step. A rule overrides what it changes."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ngpt.optim.steps import StateTypes

Axis = Literal["vectors", "rows"]
"""Vectors that a rule treats separately: the unit vectors of nGPT, or rows, which are output neurons in most papers.
They differ in the two output projections, whose unit vectors are columns."""

Group = dict[str, Any]
State = dict[str, Any]


class MatrixRule(torch.optim.Optimizer, ABC):
    """Move matrices by W <- W - lr D, where a rule computes D from the momentum.

    M <- mu M + (1 - mu) G, an exponential moving average. D is computed from X = (1 - mu) G + mu M with `nesterov`,
    else from X = M. It is subtracted, so it points uphill, as X does. Unless `move` is
    overridden, a zero D moves nothing.

    A subclass writes `direction`. It overrides `update_momentum` if it averages otherwise, and `move` if its step is
    not straight. State goes to `self.state[W]`, as tensors and plain values.
    """

    stays_on_sphere: ClassVar[bool] = False
    """whether a step keeps unit vectors, which are then not projected"""
    keeps_norm: ClassVar[bool] = False
    """whether it keeps a norm of the matrix instead of unit vectors; needs --constraint none"""
    keeps_position: ClassVar[bool] = False
    """whether its state holds earlier weights or averages of them, so that its moves cannot be rescaled"""

    def __init__(self, params: Any, lr: float | Tensor, *, momentum: float, nesterov: bool, **options: Any) -> None:
        """Take matrices, or groups of them with the dimension of their unit vectors as `sphere_dim`.

        Raises ValueError unless lr >= 0 and momentum is in [0, 1).
        """
        require(lr >= 0, f"lr must not be negative: {lr}")
        require(0 <= momentum < 1, f"momentum must lie in [0, 1): {momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every matrix that has a gradient once; return what `closure`, called first if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for W in group["params"]:
                if W.grad is not None:
                    X = self.update_momentum(W, W.grad, self.state[W], group)
                    self.move(W, self.direction(W, X, group), group)
        return loss

    def update_momentum(self, W: Tensor, G: Tensor, state: State, group: Group) -> Tensor:
        """Update the momentum with the gradient and return X, (m, n)."""
        M = state.get("momentum_buffer")
        if M is None:
            M = state["momentum_buffer"] = torch.zeros_like(W)
        M.lerp_(G, 1 - group["momentum"])
        return G.lerp(M, group["momentum"]) if group["nesterov"] else M

    @abstractmethod
    def direction(self, W: Tensor, X: Tensor, group: Group) -> Tensor:
        """Return D, (m, n), computed from X; `move` subtracts lr D."""

    def move(self, W: Tensor, D: Tensor, group: Group) -> None:
        """Move W in place."""
        W.sub_(group["lr"] * D)

    def state_types(self) -> dict[Tensor, StateTypes]:
        """Return shape and dtype of the state that a step leaves, by parameter and key; for embedding and head only."""
        parameters = [W for group in self.param_groups for W in group["params"]]
        return {W: {"momentum_buffer": (tuple(W.shape), W.dtype)} for W in parameters}


def require(condition: bool | Tensor, message: str) -> None:
    """Raise ValueError with a message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_axis(axis: str) -> None:
    """Raise ValueError for an unknown axis."""
    require(axis in ("vectors", "rows"), f"axis must be vectors or rows: {axis}")


def vector_dim(group: Group) -> int:
    """Return the dimension of the unit vectors of a group. Raises ValueError if it has none, as with `--arch gpt`."""
    dim: int | None = group["sphere_dim"]
    if dim is None:
        raise ValueError("this rule needs unit vectors, and the model has none")
    return dim


def line_dim(group: Group) -> int:
    """Return the dimension to sum over for one vector or row, by the group's `axis`. Raises as `vector_dim`."""
    return -1 if group["axis"] == "rows" else vector_dim(group)
