"""A training step in two halves, gradients and move; on a GPU both are replayed from CUDA graphs, without launch gaps.

Between the halves the host reads loss and gradient norm, once, so that a step on non-finite gradients is never made.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ngpt.data.batches import Batches, Ids
from ngpt.model.loss import cross_entropy
from ngpt.optim.build import Optimizers
from ngpt.training.environment import keep_compiled_code_apart, missing_compiler_as_error
from ngpt.training.sharding import ParameterSharding

Half = Callable[[], None]

MOST_COMPILED = 1000
"""Most versions of the loss, of different models and shapes, that are compiled in one process"""

ON_DEVICE = 2**28
"""Longest training stream, in tokens of 4 bytes, that is kept on a GPU; of a longer one the host cuts the windows."""


class Feed:
    """The batches of a run on its device. On a GPU the tokens are there too, and the host sends only positions."""

    def __init__(self, batches: Batches, device: torch.device, *, gather: bool | None = None) -> None:
        """gather: whether to keep the tokens on the device; None: on a GPU, up to ON_DEVICE."""
        self.batches, self.device = batches, device
        windows = batches.windows
        if gather is None:
            gather = device.type == "cuda" and len(windows.tokens) <= ON_DEVICE
        self.tokens = torch.from_numpy(windows.tokens.astype("int32")).to(device) if gather else None
        self.offsets_T = torch.arange(windows.seq_len, device=device)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of one step, int64 (B, T) each."""
        return self.batches.at(step, self._take)

    def _take(self, starts_B: Ids) -> Tensor:
        if self.tokens is None:
            return torch.from_numpy(self.batches.windows.take(starts_B)).to(self.device)
        return self.tokens[torch.from_numpy(starts_B).to(self.device)[:, None] + self.offsets_T].long()


def loss_of(model: nn.Module, x_BT: Tensor, y_BT: Tensor) -> Tensor:
    """Return the mean loss of a batch in nats per token."""
    return cross_entropy(model(x_BT), y_BT)


@functools.cache
def compiled_loss() -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return `loss_of` under torch.compile, which serves all models of one shape with what it made for the first.

    A process that is forked has what its parent has compiled. Sizes and numbers are constants of the compiled code, so
    that what a run computes does not depend on what was compiled before it.
    """
    import torch._dynamo.config as settings

    keep_compiled_code_apart()
    compiled = torch.compile(loss_of, dynamic=False)
    limits = {"recompile_limit": MOST_COMPILED, "accumulated_recompile_limit": MOST_COMPILED}
    limits |= {"fail_on_recompile_limit_hit": True}  # or the run would go on without compiled code

    def loss(model: nn.Module, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        with settings.patch(limits):  # here only: an optimizer may compile its steps too
            return compiled(model, x_BT, y_BT)

    return loss


class TrainingStep:
    """Model, optimizers and batches of a run as the two halves of a step, with what ranks exchange in between.

    With `compiled` torch.compile makes the forward and the backward pass, which rounds differently. With `graphs` both
    halves are captured after the first step that moved the weights and replayed from then on: the same kernels, not
    launched by the host.
    """

    x_BT: Tensor
    y_BT: Tensor
    outcome: Tensor
    """loss and gradient norm, (2,)"""
    captured: bool
    backward: Half
    """computes the gradients and `outcome` of the batch"""
    move: Half
    """makes one step of the optimizers along the gradients"""

    def __init__(
        self, model: nn.Module, optimizers: Optimizers, feed: Feed, autocast: torch.autocast,
        sharding: ParameterSharding, *, compiled: bool, graphs: bool,
    ) -> None:  # fmt: skip
        self.model, self.optimizers, self.feed, self.autocast = model, optimizers, feed, autocast
        self.sharding, self.compiled, self.graphs = sharding, compiled, graphs
        self.loss = compiled_loss() if compiled else loss_of
        self.gradients: list[Tensor] = []
        """what this rank's optimizers see"""
        self.discard_graphs()

    def describe(self) -> str:
        """Return how steps are run, for the record."""
        ranks = f", {self.sharding.ranks.count} ranks, {self.sharding.kind}" if self.sharding.kind else ""
        return ("compiled" if self.compiled else "eager") + (", CUDA graphs" if self.graphs else "") + ranks

    def take_gradients(self, step: int) -> tuple[float, float]:
        """Compute a batch's gradients, wait for the device, return loss in nats per token and norm, of all ranks."""
        x_BT, y_BT = self.feed.at(step)
        if self.captured:
            self.x_BT.copy_(x_BT)
            self.y_BT.copy_(y_BT)
        else:
            self.x_BT, self.y_BT = x_BT, y_BT
        self.backward()
        loss, norm = self.outcome.tolist()
        return loss, norm

    def end(self, *, moved: bool) -> None:
        """Free the gradients; after the first step that `moved`, capture, since all lasting memory is allocated now."""
        if not self.captured:
            self.gradients = []
            self.sharding.zero_grad()
            if self.graphs and moved:
                pool = torch.cuda.graph_pool_handle()  # shared by both halves, which are replayed in this order
                self.backward = capture(self._forward_and_backward, pool)
                self.move = capture(self.optimizers.move, pool)
                self.captured = True

    def discard_graphs(self) -> None:
        """Run both halves eagerly until the next capture, as at first and after the optimizers have changed."""
        self.captured = False
        self.backward, self.move = self._forward_and_backward, self.optimizers.move
        self.sharding.zero_grad()

    def _forward_and_backward(self) -> None:
        with missing_compiler_as_error():
            with self.autocast:
                loss = self.loss(self.model, self.x_BT, self.y_BT)
            loss.backward()
        self.gradients, self.outcome = self.sharding.collect(loss)


def capture(half: Half, pool: Any) -> Half:
    """Record the kernels that `half` launches, without running them; a call of the result runs them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
        half()
    return graph.replay
