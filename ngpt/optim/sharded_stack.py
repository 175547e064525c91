"""Sharded matrices (DTensor) in one step of SimpleMuon: gathered on their owners for the polar factor, then scattered.

The functions of `ngpt.optim.rule` that act on single entries run on the shards, the others on whole matrices, so that
every number is what a `Stack` of whole matrices gives, wherever a shard ends.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ngpt.optim import rule, steps
from ngpt.optim.sharded import Transfer, gather_to_owners, local_of, scatter_to_shards, shard_layout, tangents
from ngpt.optim.stack import Stack


class ShardedStack:
    """Sharded matrices of one group, shape and dtype, each with the rank that owns it for the step.

    Momentum and look-ahead are computed on shards. The look-ahead goes to the owners, in the orthogonalizer's
    precision, and with it what the options need there: the weights, if an option reads them; NorMuon's second moments;
    the momentum, if it is transported. The weights come back or, where no option reads them, the refined update, which
    is then applied to the shards.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Tensor]],
        group: dict[str, Any],
        owners: list[int],
    ) -> None:
        """owners: the rank of each matrix among those that share it."""
        self.sharded, self.gradients, self.states = parameters, gradients, states
        self.group, self.owners = group, owners
        self.shards = Stack(
            [local_of(parameter) for parameter in parameters],
            [local_of(gradient) for gradient in gradients],
            [{key: local_of(value) for key, value in state.items()} for state in states],
            group,
        )
        self.parameters, self.shape = self.shards.parameters, parameters[0].shape
        self.reads_weights = bool(steps.reading_weights(group))
        self.carried = list(chain(*steps.state_after_polar(group)))
        self.input_dtype = gradients[0].dtype
        if steps.may_round_input(group) and self.input_dtype == torch.float32:
            self.input_dtype = steps.polar_dtype(group)
        layout = shard_layout(parameters[0])
        self.count = 0 if layout is None else owners.count(layout.index)
        """Number of matrices that this rank orthogonalizes"""

    def start(self) -> None:
        """Compute the look-ahead on the shards and send it to the owners."""
        momenta = [state["momentum_buffer"] for state in self.shards.states]
        inputs = [torch.empty_like(W, dtype=self.shards.input_dtype) for W in self.parameters]

        def of_whole(W: Sequence[Tensor], G: Sequence[Tensor], *, dim: int) -> list[Tensor]:
            return tangents(self.sharded, self.gradients, dim=dim)  # each vector may lie on several ranks

        rule.look_ahead(self.parameters, self.shards.gradients, momenta, self.group, out=inputs, tangents=of_whole)
        going = self._transfers([X.to(self.input_dtype) for X in inputs])
        going += self._transfers(self.parameters) if self.reads_weights else []
        self.receive = gather_to_owners(going + self._state_transfers())

    def write_polar_input(self, X: Tensor) -> list[Tensor]:
        """Wait for the whole matrices of this rank and write the polar factor's input to X (count, m, n)."""
        here, first = range(self.count), self.parameters[0]
        weights = [first.new_empty(self.shape) for _ in here if self.reads_weights]
        kept = {key: self.states[0][key] for key in self.carried}  # all states are alike
        states = [{key: first.new_empty(like.shape, dtype=like.dtype) for key, like in kept.items()} for _ in here]
        self.receive([*X, *weights, *(state[key] for key in self.carried for state in states)])
        self.whole = Stack(weights, [], states, self.group)
        del self.receive
        rule.tangent_input(weights, X, self.group)
        return []

    def apply(self, O: Tensor) -> None:
        """Apply the rest of the rule to the matrices that are whole here, and send back the result.

        O: polar factors (count, m, n).
        """
        whole, self.updates = self.whole, list[Tensor]()
        moved: Sequence[Tensor] = whole.parameters
        if not self.reads_weights:
            self.updates = [torch.empty_like(W, dtype=steps.refined_dtype(self.group)) for W in self.parameters]
            moved = list(whole.refine(O).to(self.updates[0].dtype)) if self.count else []
        elif self.count:
            whole.apply(O)
        states = [state[key] for key in self.carried for state in whole.states]
        returning = self._transfers(self.updates or self.parameters) + self._state_transfers()
        self.return_shards = scatter_to_shards(returning, [*moved, *states])
        del self.whole

    def finish(self) -> None:
        """Wait for the shards of the moved weights, or of the updates and apply those."""
        self.return_shards()
        if not self.reads_weights:
            for W, O in zip(self.parameters, self.updates, strict=True):
                rule.apply(W, O, {}, self.group, shape=self.shape)
        del self.return_shards, self.updates  # frees their memory before the step is over

    def _transfers(self, shards: Sequence[Tensor]) -> list[Transfer]:
        return [Transfer(*one) for one in zip(shards, self.sharded, self.owners, strict=True)]

    def _state_transfers(self) -> list[Transfer]:
        owned = list(zip(self.states, self.owners, strict=True))
        return [Transfer(local_of(state[key]), state[key], owner) for key in self.carried for state, owner in owned]
