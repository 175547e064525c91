"""Which rank steps which parameter, and how gradients get to it and weights get back.

With replicas every matrix has an owner: the one rank that holds its optimizer state, makes its step and projects it, by
the code that a run of one process uses. Gradients are summed onto the owner, and the owner's weights are published to
all. That sends as much as averaging the gradients everywhere does, and each rank orthogonalises its share. With shards
(FSDP2) every rank steps its part of all matrices, and `SimpleMuon` makes them whole where they must be. Vectors and
scalars are few numbers: either way every rank steps all of them, on gradients averaged everywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim.sharded import cut_of, dealt, local_of, polar_work
from ngpt.ranks import ALONE, Ranks


def owners(shapes: Mapping[str, tuple[int, ...]], specs: Mapping[str, ParameterSpec], count: int) -> dict[str, int]:
    """The rank that owns each parameter, by name; vectors and scalars, which all ranks step, belong to the first.

    Hidden matrices so that each rank has about as much to orthogonalise, the other matrices so that each has about as
    many numbers in all. A pure function of its arguments. Of more ranks than matrices, some own none.
    """
    owner = dict.fromkeys(shapes, 0)
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2 and specs[name].role != Role.FROZEN}
    hidden = {name: shape for name, shape in matrices.items() if specs[name].role == Role.HIDDEN}
    others = {name: m * n for name, (m, n) in matrices.items() if name not in hidden}
    owner |= zip(hidden, dealt([polar_work(shape) for shape in hidden.values()], [0.0] * count), strict=True)
    elements = [0.0] * count
    for name, (m, n) in hidden.items():
        elements[owner[name]] += m * n
    return owner | dict(zip(others, dealt(list(others.values()), elements), strict=True))


class Shares:
    """The parameters of a run of one process: all are its own. The base of those of several ranks."""

    def __init__(self, model: nn.Module, specs: Mapping[str, ParameterSpec], ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.parameters = dict(model.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        self.trained = [name for name in self.parameters if specs[name].role != Role.FROZEN]
        self.owner = owners(shapes, specs, ranks.count)
        self.owned: dict[str, Tensor] = dict(self.parameters)
        """By name: what this rank's optimizers step, or of shards their part of"""

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the first rank what all ranks have, in whole tensors; elsewhere nothing."""
        cuts = {name: cut.dim for name, tensor in tensors.items() if (cut := cut_of(tensor)) is not None}
        return self.ranks.gather({name: local_of(tensor) for name, tensor in tensors.items()}, cuts)

    def own_part(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of whole tensors all but those of a parameter that another rank owns.

        Named `<parameter>`, `<of what>.<parameter>` or `<of what>.<parameter>.<which>`.
        """
        found = {}
        for key, tensor in tensors.items():
            rest = key.partition(".")[2]
            names = [name for name in (key, rest, rest.rpartition(".")[0]) if name in self.parameters]
            if not names or names[0] in self.owned:
                found[key] = tensor
        return found

    def collect(self, loss: Tensor) -> tuple[list[Tensor], Tensor]:
        """After a backward pass: the gradients of what this rank steps, and (loss, gradient norm) of the whole batch.

        `loss`: of this rank's part of the batch; all parts have one size.
        """
        gradients = [tensor.grad for tensor in self.owned.values() if tensor.grad is not None]
        norms = torch._foreach_norm(gradients)  # torch.nn.utils.get_total_norm without its grouping by device
        return gradients, torch.stack([loss.detach(), torch.linalg.vector_norm(torch.stack(norms))])

    def said_in_one_line(self) -> str:
        """How many ranks hold the weights in which way, for the record, after a comma; nothing of one process."""
        return ""

    def publish(self) -> None:
        """Bring the weights that their owners have changed to all ranks."""

    def forget_gradients(self) -> None:
        """Of all parameters."""
        for tensor in (*self.parameters.values(), *self.owned.values()):
            tensor.grad = None


class _Shared(Shares, ABC):
    """What replicas and shards have in common."""

    summed_squares: frozenset[str] = frozenset()
    """Names of gradients each rank has a part of; of all others one rank knows the norm"""

    def __init__(self, model: nn.Module, specs: Mapping[str, ParameterSpec], ranks: Ranks) -> None:
        super().__init__(model, specs, ranks)
        self.matrices = [name for name in self.trained if self.parameters[name].ndim == 2]
        self.small = [name for name in self.trained if self.parameters[name].ndim != 2]

    def said_in_one_line(self) -> str:
        return f", {self.ranks.count} ranks, {type(self).__name__.lower()}"

    @abstractmethod
    def _bring_gradients(self) -> None:
        """Of the matrices, averaged, to where they are stepped."""

    def collect(self, loss: Tensor) -> tuple[list[Tensor], Tensor]:
        self._bring_gradients()
        small = [_gradient(self.parameters[name]) for name in self.small]
        flat = self.ranks.add(torch.cat([gradient.flatten() for gradient in small])).div_(self.ranks.count)
        for gradient, part in zip(small, flat.split([gradient.numel() for gradient in small]), strict=True):
            gradient.copy_(part.view_as(gradient))
        gradients = {name: local_of(_gradient(self.owned[name])) for name in self.trained if name in self.owned}
        norms = dict(zip(gradients, torch._foreach_norm(list(gradients.values())), strict=True))
        squares, nothing = self.summed_squares, torch.zeros((), device=loss.device)
        mine = {name: norm for name, norm in norms.items() if self.owner[name] == self.ranks.index}
        mine |= {name: norms[name].square() for name in squares}
        told = torch.stack([loss.detach() / self.ranks.count, *(mine.get(name, nothing) for name in self.trained)])
        loss_and_norms = list(self.ranks.add(told))
        whole = [n.sqrt() if name in squares else n for name, n in zip(self.trained, loss_and_norms[1:], strict=True)]
        return list(gradients.values()), torch.stack([loss_and_norms[0], torch.linalg.vector_norm(torch.stack(whole))])


class Replicas(_Shared):
    """Every rank holds all weights; gradients travel while the backward pass goes on."""

    def __init__(self, model: nn.Module, specs: Mapping[str, ParameterSpec], ranks: Ranks) -> None:
        super().__init__(model, specs, ranks)
        elsewhere = {name for name in self.matrices if self.owner[name] != ranks.index}
        self.owned = {name: tensor for name, tensor in self.parameters.items() if name not in elsewhere}
        self.coming = list(reversed(self.matrices))
        """In the order in which a backward pass ends with them, and all ranks send them"""
        self.sent: list[Any] = []
        self.ready: set[str] = set()
        for name in self.matrices:
            self.parameters[name].register_post_accumulate_grad_hook(lambda _, name=name: self._send(name))
        self.publish()

    def _send(self, name: str) -> None:
        """Gradient `name` is there: send what comes next in the order, as far as it is ready."""
        self.ready.add(name)
        while len(self.sent) < len(self.coming) and (following := self.coming[len(self.sent)]) in self.ready:
            gradient = _gradient(self.parameters[following])
            self.sent.append(dist.reduce(gradient, self.owner[following], async_op=True))

    def _bring_gradients(self) -> None:
        for name in self.coming:  # those that this loss does not depend on
            self._send(name)
        for work in self.sent:
            work.wait()
        self.sent, self.ready = [], set()
        for name in self.matrices:
            if self.owner[name] == self.ranks.index:
                _gradient(self.parameters[name]).div_(self.ranks.count)

    @torch.no_grad()
    def publish(self) -> None:
        """Each owner sends its matrices."""
        sent = [
            dist.broadcast(self.parameters[name].detach(), self.owner[name], async_op=True) for name in self.matrices
        ]
        for work in sent:
            work.wait()


class Shards(_Shared):
    """FSDP2: weights, gradients and optimizer state of the matrices lie sharded over the ranks.

    They come together for the pass through a block, an embedding or the head, and FSDP2 averages gradients onto shards
    while the backward pass goes on.
    """

    def __init__(
        self, model: nn.Module, specs: Mapping[str, ParameterSpec], ranks: Ranks, device: torch.device, *, dim: int = 0
    ) -> None:
        """Moves a model that lies on the CPU to `device` block by block, so that it need not fit there as a whole.

        dim: along which the matrices are cut, 0 or 1; their size along 1 must be a multiple of the ranks' number.
        """
        from torch.distributed.device_mesh import init_device_mesh  # slow to import, and needed by nobody else
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import Shard

        super().__init__(model, specs, ranks)
        others = {parameter for name, parameter in self.parameters.items() if name not in set(self.matrices)}
        for parameter in others:
            parameter.data = parameter.data.to(device)
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (ranks.count,)), "ignored_params": others,
            "shard_placement_fn": lambda _: Shard(dim),
        }  # fmt: skip
        self.staying: list[Any] = []
        """What is together from a forward pass on until the next backward pass has been through it"""
        for child in model.children():
            blocks = list(child) if isinstance(child, nn.ModuleList) else []
            for part in blocks or [child]:
                if any(parameter.ndim == 2 for parameter in part.parameters()):
                    fully_shard(part, reshard_after_forward=bool(blocks), **settings)
                    self.staying += [] if blocks else [part]
        fully_shard(model, **settings)
        self.parameters = dict(model.named_parameters())
        self.owned, self.summed_squares = dict(self.parameters), frozenset(self.matrices)

    def _bring_gradients(self) -> None:
        """FSDP2 has done it."""

    def publish(self) -> None:
        """The next pass brings the shards together again, also of what a validation has left together."""
        for part in self.staying:
            part.reshard()


def share(
    model: nn.Module,
    specs: Mapping[str, ParameterSpec],
    ranks: Ranks,
    kind: Literal["replicas", "fsdp"],
    device: torch.device,
) -> Shares:
    """Move `model` to `device`, or this rank's part of it: how the ranks divide its parameters."""
    if ranks.count > 1 and kind == "fsdp":
        return Shards(model, specs, ranks, device)
    model.to(device)
    return (Shares if ranks.count == 1 else Replicas)(model, specs, ranks)


def _gradient(tensor: Tensor) -> Tensor:
    """Zero where the loss does not depend on `tensor`."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return tensor.grad
