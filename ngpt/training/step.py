"""A training step on one batch: gradients, then the move; on a GPU replayed from CUDA graphs, without launch gaps.

Between the two the host reads loss and norm, once, so that a step without finite gradients is never made.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ngpt.data.batches import Batches
from ngpt.optim.build import Optimizers
from ngpt.training.evaluation import loss_of
from ngpt.training.shares import Shares

Replay = Callable[[], None]

ON_DEVICE = 2**28
"""Most training tokens that are kept on a GPU, 4 bytes each; of a longer stream the host cuts the windows."""


class Feed:
    """The batches of a run on its device; on a GPU the tokens lie there, and a batch costs its windows' places."""

    def __init__(self, batches: Batches, device: torch.device, *, gather: bool | None = None) -> None:
        """gather: whether the tokens go to the device; None: on a GPU, if they are not too many."""
        self.batches, self.device = batches, device
        windows = batches.windows
        if gather is None:
            gather = device.type == "cuda" and len(windows.tokens) <= ON_DEVICE
        self.tokens = torch.from_numpy(windows.tokens.astype("int32")).to(device) if gather else None
        self.within_T = torch.arange(windows.seq_len + 1, device=device)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one step, int64 (B, T) each."""
        if self.tokens is None:
            x, y = (torch.from_numpy(ids.copy()).to(self.device) for ids in self.batches.at(step))
            return x, y
        starts_B = torch.from_numpy(self.batches.starts(step)).to(self.device)
        span = self.tokens[starts_B[:, None] + self.within_T].long()
        x_BT, y_BT = span[:, :-1].contiguous(), span[:, 1:].contiguous()
        self.batches.windows.hide_context(y_BT)
        return x_BT, y_BT


class TrainingStep:
    """Model, optimizers and batches of a run as the two halves of a step, and what ranks exchange in between.

    With `compiled` torch.compile makes the forward and the backward pass, which rounds differently. With `graphs` both
    halves are captured after the first step made and replayed from then on: the same kernels, no launches by the host.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        feed: Feed,
        autocast: torch.autocast,
        shares: Shares,
        *,
        compiled: bool,
        graphs: bool,
    ) -> None:
        self.model, self.optimizers, self.feed, self.autocast = model, optimizers, feed, autocast
        self.shares = shares
        self.compiled, self.capturing = compiled, graphs
        self.loss = torch.compile(self._loss, dynamic=False) if compiled else self._loss
        self.captured: tuple[Replay, Replay] | None = None
        self.gradients: list[Tensor] = []

    def said_in_one_line(self) -> str:
        """How steps are made, for the record."""
        made = ("compiled" if self.compiled else "eager") + (", CUDA graphs" if self.capturing else "")
        return made + self.shares.said_in_one_line()

    def take_gradients(self, step: int) -> tuple[float, float]:
        """Gradients of step `step`'s batch; its loss in nats per token, and their norm. Waits for the device."""
        batch = self.feed.at(step)
        if self.captured is None:
            self.x_BT, self.y_BT = batch
            self._forward_and_backward()
        else:
            self.x_BT.copy_(batch[0])
            self.y_BT.copy_(batch[1])
            self.captured[0]()
        loss, norm = self.outcome.tolist()
        return loss, norm

    def scale_gradients(self, factor: float) -> None:
        """Multiply all gradients that this rank's optimizers see."""
        torch._foreach_mul_(self.gradients, factor)

    def move(self) -> None:
        """One step of the optimizers along the gradients."""
        if self.captured is None:
            self.optimizers.move()
        else:
            self.captured[1]()

    def end(self, *, moved: bool) -> None:
        """Forget the gradients; after the first step made, capture: by then all that lasts has its place in memory."""
        if self.captured is None:
            self.gradients = []
            self.shares.forget_gradients()
            if self.capturing and moved:
                self._capture()

    def optimizers_changed(self) -> None:
        """What was captured is no longer what a step does."""
        self.captured = None
        self.shares.forget_gradients()

    def _loss(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        with self.autocast:
            logits_BTV = self.model(x_BT)
        return loss_of(logits_BTV, y_BT)

    def _forward_and_backward(self) -> None:
        loss = self.loss(self.x_BT, self.y_BT)
        loss.backward()
        self.gradients, self.outcome = self.shares.collect(loss)

    def _capture(self) -> None:
        """Both halves share memory: they are replayed in this order."""
        pool = torch.cuda.graph_pool_handle()
        self.captured = capture(self._forward_and_backward, pool), capture(self.optimizers.move, pool)


def capture(half: Callable[[], None], pool: Any) -> Replay:
    """Record what `half` launches, without carrying it out; a call of the result carries it out."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
        half()
    return graph.replay
