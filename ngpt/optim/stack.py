"""Matrices of one group, shape and dtype in one step of SimpleMuon: whole ones, or those that lie in shards over ranks.

Both are taken through a step by the same calls: `begin`, `write_polar_input`, `move` and `finish`; before `move` the
caller orthogonalises all stacks of a shape as one batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ngpt import kernels, sphere
from ngpt.kernels import twins
from ngpt.optim import steps
from ngpt.optim.sharded import Travelling, cut_of, local_of, to_owners, to_shards

OF_WEIGHTS = {"geodesic": None, "tangent": "none", "momentum_transport": "none", "cautious_wd": False}
"""Options that need all weights of a shape at once, with the value at which they are off"""


@dataclass
class Stack:
    """Whole matrices (m, n) on this rank. Writes to parameters and states, never to gradients."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    states: list[dict[str, Tensor]]
    group: dict[str, Any]

    @property
    def shape(self) -> torch.Size:
        """Of each matrix."""
        return self.parameters[0].shape

    @property
    def count(self) -> int:
        """Matrices that this rank orthogonalises."""
        return len(self.parameters)

    @property
    def fused(self) -> bool:
        """Whether one kernel takes steps 1 and 2 and the norm, rounding once, to the precision of step 3."""
        return (
            kernels.elementwise(self.parameters[0]) is not twins
            and rounds_early(self.group)
            and all(parameter.is_contiguous() for parameter in self.parameters)
        )

    @property
    def input_dtype(self) -> torch.dtype:
        """Of what step 3 takes."""
        return polar_dtype(self.group) if self.fused else self.parameters[0].dtype

    @property
    def momenta(self) -> list[Tensor]:
        """Of each matrix. Where shards came together, they are there only if the momentum is transported."""
        return [state["momentum_buffer"] for state in self.states]

    def make_momentum(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Step 1, on single entries, and its look-ahead into `inputs`; where `fused`, returns their norms."""
        mu, nesterov = self.group["momentum"], self.group["nesterov"]
        of_each = list(zip(self.momenta, self.gradients, inputs, strict=True))
        if self.fused:
            take = kernels.elementwise(self.parameters[0]).momentum_step_
            return [take(M, G, mu, nesterov=nesterov, out=X_i) for M, G, X_i in of_each]
        for M, G, X_i in of_each:
            steps.momentum(M, G, mu, out=M)
            steps.nesterov(M, G, mu, out=X_i) if nesterov else X_i.copy_(M)
        return []

    def write_polar_input(self, X: Tensor) -> Tensor | None:
        """Steps 1 and 2, into X (number of matrices, m, n); returns the norms, (number, 1, 1), where it has them."""
        norms = self.make_momentum(list(X))
        self.make_tangent(X)
        return torch.stack(norms).reshape(-1, 1, 1) if norms else None

    def make_tangent(self, X: Tensor) -> None:
        """Step 2, in place."""
        if self.group["tangent"] in ("before", "both"):
            X.copy_(sphere.tangent(torch.stack(self.parameters), X, dim=self._dim))

    def move(self, O: Tensor) -> None:
        """Steps 4 to 10; writes weights and state. O (number of matrices, m, n)."""
        O = self.refine(O)
        scale, needed = steps.shape_factor(O.shape, self.group["adjust_lr_fn"]), needs_weights(self.group)
        first = self.parameters[0]
        if needed == {"geodesic"} and kernels.elementwise(first, first.size(self._dim)) is not twins:
            turn, fixed = kernels.elementwise(first).geodesic_move_, self.group["geodesic"] == "lr"
            for W, O_i in zip(self.parameters, O, strict=True):
                turn(W, O_i, self.group["lr"], scale, fixed_angle=fixed, dim=self._dim)
        elif needed:
            self._move_by_weights(O, scale)
        else:
            self.move_entries(O, scale)

    def refine(self, O: Tensor) -> Tensor:
        """Steps 4 and 5; writes the second moments."""
        if self.group["match_step"] == "rms":
            O = steps.match_rms(O)
        if self.group["normuon"] is not None:
            V = torch.stack([state["second_momentum_buffer"] for state in self.states])
            O, V = steps.variance_reduction(O, V, self.group["beta2"])
            for state, V_i in zip(self.states, V, strict=True):
                state["second_momentum_buffer"].copy_(V_i)
        return O

    def move_entries(self, O: Tensor | Sequence[Tensor], scale: float) -> None:
        """Steps 8 and 9 where no option needs the weights: on single entries. scale: of step 6."""
        lr, weight_decay = self.group["lr"], self.group["weight_decay"]
        for W, O_i in zip(self.parameters, O, strict=True):
            steps.linear_move(steps.decay(W, lr, weight_decay), O_i, lr * scale, out=W)

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

    def begin(self) -> None:
        """Nothing has to come from elsewhere."""

    def finish(self) -> None:
        """Nothing is under way."""

    @property
    def _dim(self) -> int:
        """The sphere axis, counted from the end, so that it is the same in a stack."""
        dim: int = self.group["sphere_dim"]
        return dim if dim < 0 else dim - 2


class ShardedStack:
    """Matrices in shards (DTensor): each comes together on its owner, which orthogonalises it, and goes back in shards.

    Step 1 is made on shards. What step 3 takes goes to the owners, in its precision, and with it what else the options
    need: the weights, for all that knows of unit vectors; NorMuon's second moments; the momentum, to be transported.
    What comes back is the weights or, where nothing needs them, the update, with which step 9 is made on shards. So
    every number is what a `Stack` of whole matrices makes it, wherever a shard ends.
    """

    fused = False

    def __init__(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        owners: list[int],
    ) -> None:
        """owners: of each matrix, its rank among those that share it."""
        self.sharded, self.states, self.group, self.owners = parameters, states, group, owners
        self.near = Stack(
            [local_of(parameter) for parameter in parameters],
            [local_of(gradient) for gradient in gradients],
            [{key: local_of(value) for key, value in state.items()} for state in states],
            group,
        )
        self.carried = ["second_momentum_buffer"] * (group["normuon"] is not None)
        self.carried += ["momentum_buffer"] * (group["momentum_transport"] != "none")
        first = self.near.parameters[0]
        self.input_dtype = first.dtype
        if rounds_early(group) and first.dtype == torch.float32:
            self.input_dtype = polar_dtype(group)

    @property
    def parameters(self) -> list[Tensor]:
        """Their shards on this rank."""
        return self.near.parameters

    @property
    def shape(self) -> torch.Size:
        """Of each whole matrix."""
        return self.sharded[0].shape

    @property
    def count(self) -> int:
        """Matrices that this rank orthogonalises."""
        cut = cut_of(self.sharded[0])
        return 0 if cut is None else self.owners.count(cut.index)

    def begin(self) -> None:
        """Make step 1 and send."""
        dtype = self.input_dtype if self.near.fused else self.near.parameters[0].dtype
        inputs = [torch.empty_like(W, dtype=dtype) for W in self.near.parameters]
        self.near.make_momentum(inputs)
        going = self._travelling([X.to(self.input_dtype) for X in inputs])
        going += self._travelling(self.near.parameters) if needs_weights(self.group) else []
        self.arrive = to_owners(going + self._travelling_states())

    def write_polar_input(self, X: Tensor) -> None:
        """Wait for what comes together here, and step 2, into X (`count`, m, n)."""
        here, first = range(self.count), self.near.parameters[0]
        weights = [first.new_empty(self.shape) for _ in here if needs_weights(self.group)]
        kept = {key: self.states[0][key] for key in self.carried}  # all are alike
        states = [{key: first.new_empty(like.shape, dtype=like.dtype) for key, like in kept.items()} for _ in here]
        self.arrive([*X, *weights, *(state[key] for key in self.carried for state in states)])
        self.whole = Stack(weights, [], states, self.group)
        del self.arrive
        if here:
            self.whole.make_tangent(X)

    def move(self, O: Tensor) -> None:
        """Steps 4 to 10 of the matrices that are whole here, and send what became of them. O (`count`, m, n)."""
        whole, self.updates = self.whole, list[Tensor]()
        if not needs_weights(self.group):
            self.updates = [torch.empty_like(W, dtype=refined_dtype(self.group)) for W in self.near.parameters]
            moved = list(whole.refine(O).to(self.updates[0].dtype)) if self.count else []
        else:
            if self.count:
                whole.move(O)
            moved = whole.parameters
        states = [state[key] for key in self.carried for state in whole.states]
        returning = self._travelling(self.updates or self.near.parameters) + self._travelling_states()
        self.come_back = to_shards(returning, [*moved, *states])
        del self.whole

    def finish(self) -> None:
        """Wait for the shards of what other ranks moved, or of the updates, and make steps 8 and 9 with those."""
        self.come_back()
        if not needs_weights(self.group):
            self.near.move_entries(self.updates, steps.shape_factor(self.shape, self.group["adjust_lr_fn"]))
        del self.come_back, self.updates  # their memory, before the step is over

    def _travelling(self, shards: Sequence[Tensor]) -> list[Travelling]:
        return [Travelling(*one) for one in zip(shards, self.sharded, self.owners, strict=True)]

    def _travelling_states(self) -> list[Travelling]:
        kept = [[state[key] for state in self.states] for key in self.carried]
        return [Travelling(local_of(M), M, owner) for of in kept for M, owner in zip(of, self.owners, strict=True)]


def needs_weights(group: Mapping[str, Any]) -> set[str]:
    """The options of a group whose step depends on the weights."""
    needed = {name for name, value in OF_WEIGHTS.items() if group[name] != value}
    return needed | ({"match_step"} if group["match_step"] == "angle" else set())


def polar_dtype(group: Mapping[str, Any]) -> torch.dtype:
    """Of the orthogonaliser's products."""
    dtype: torch.dtype = getattr(torch, group["polar_dtype"])
    return dtype


def refined_dtype(group: Mapping[str, Any]) -> torch.dtype:
    """Of the update after steps 4 and 5."""
    dtype = polar_dtype(group)
    return torch.promote_types(dtype, torch.float32) if group["match_step"] == "rms" else dtype


def rounds_early(group: Mapping[str, Any]) -> bool:
    """Whether what step 1 gives may be rounded at once to the precision of step 3, which does it first of all."""
    return (
        group["tangent"] in ("none", "after")
        and group["orthogonalizer"] != "svd"
        and group["polar_dtype"] in ("float32", "bfloat16")
    )
