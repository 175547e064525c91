"""Which rank steps which parameter, how gradients reach it, and how weights get back.

With zero1 every rank holds all weights, and every matrix has an owner: the one rank that holds its optimizer state,
steps it and projects it, by the code of a single process. Gradients are reduced onto the owner, which broadcasts its
weights to all ranks. That sends as much as an all-reduce of the gradients, and splits the orthogonalization among the
ranks. With fsdp (FSDP2) every rank steps its shard of every matrix, and `SimpleMuon` gathers whole matrices where it
needs them. Vectors and scalars are few numbers: either way every rank steps all of them, on all-reduced gradients.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim.sharded import balance, local_of, polar_work, shard_layout
from ngpt.ranks import SINGLE_PROCESS, Ranks

Specs = Mapping[str, ParameterSpec]


def owners(shapes: Mapping[str, tuple[int, ...]], specs: Specs, count: int) -> dict[str, int]:
    """Return the rank that owns each parameter, by name; vectors and scalars, which all ranks step, are rank 0's.

    Balances the work of orthogonalization over the hidden matrices, then the number of elements over the other
    matrices. With more ranks than matrices, some own none.
    """
    owner = dict.fromkeys(shapes, 0)
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2 and specs[name].role != Role.FROZEN}
    hidden = {name: shape for name, shape in matrices.items() if specs[name].role == Role.HIDDEN}
    others = {name: m * n for name, (m, n) in matrices.items() if name not in hidden}
    owner |= zip(hidden, balance([polar_work(shape) for shape in hidden.values()], [0.0] * count), strict=True)
    elements = [0.0] * count
    for name, (m, n) in hidden.items():
        elements[owner[name]] += m * n
    return owner | dict(zip(others, balance(list(others.values()), elements), strict=True))


class ParameterSharding:
    """The parameters of a run: a single process owns all of them, and the subclasses divide them among ranks."""

    kind = ""
    """the value of --parallel, if there are several ranks"""
    partial: frozenset[str] = frozenset()
    """names of the gradients of which every rank has a shard; the norm of any other is known to its owner"""

    def __init__(self, model: nn.Module, specs: Specs, ranks: Ranks = SINGLE_PROCESS) -> None:
        self.ranks = ranks
        self.parameters = dict(model.named_parameters())
        self.trained = [name for name in self.parameters if specs[name].role != Role.FROZEN]
        self.matrices = [name for name in self.trained if self.parameters[name].ndim == 2]
        self.owner = owners({name: tuple(p.shape) for name, p in self.parameters.items()}, specs, ranks.count)
        self.owned: dict[str, Tensor] = dict(self.parameters)
        """what this rank's optimizers step, by name: whole parameters or shards"""

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of all ranks, shards put together, on rank 0; nothing on the other ranks."""
        cuts = {name: cut.dim for name, tensor in tensors.items() if (cut := shard_layout(tensor)) is not None}
        return self.ranks.gather({name: local_of(tensor) for name, tensor in tensors.items()}, cuts)

    def owned_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all of the whole `tensors` of a checkpoint but those of a parameter that another rank owns.

        Their names are `<prefix>.<parameter>` or `<prefix>.<parameter>.<key>`.
        """
        elsewhere = self.parameters.keys() - self.owned.keys()
        rests = {key: key.partition(".")[2] for key in tensors}
        return {key: tensors[key] for key, rest in rests.items() if not {rest, rest.rpartition(".")[0]} & elsewhere}

    def collect(self, loss: Tensor) -> tuple[list[Tensor], Tensor]:
        """Reduce the gradients of a backward pass over the ranks.

        loss: of this rank's part of the batch; all parts have one size. Returns the gradients that this rank's
        optimizers see, and (loss, gradient norm) of the whole batch.
        """
        if self.ranks.count == 1:
            of_one = [tensor.grad for tensor in self.owned.values() if tensor.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(of_one)))  # get_total_norm, but no grouping
            return of_one, torch.stack([loss.detach(), norm])
        self._reduce_matrix_gradients()
        small = [_gradient(self.parameters[name]) for name in self.trained if name not in self.matrices]
        flat = self.ranks.all_reduce(torch.cat([gradient.flatten() for gradient in small])).div_(self.ranks.count)
        for gradient, part in zip(small, flat.split([gradient.numel() for gradient in small]), strict=True):
            gradient.copy_(part.view_as(gradient))
        gradients = {name: local_of(_gradient(self.owned[name])) for name in self.trained if name in self.owned}
        norms = dict(zip(gradients, torch._foreach_norm(list(gradients.values())), strict=True))
        mine = {name: norm for name, norm in norms.items() if self.owner[name] == self.ranks.index}
        mine |= {name: norms[name].square() for name in self.partial}
        zero = torch.zeros((), device=loss.device)
        local = [loss.detach() / self.ranks.count, *(mine.get(name, zero) for name in self.trained)]
        mean_loss, *reduced = self.ranks.all_reduce(torch.stack(local))
        whole = [n.sqrt() if name in self.partial else n for name, n in zip(self.trained, reduced, strict=True)]
        return list(gradients.values()), torch.stack([mean_loss, torch.linalg.vector_norm(torch.stack(whole))])

    def _reduce_matrix_gradients(self) -> None:
        """Finish averaging the gradients of matrices over the ranks, if the backward pass has not done so already."""

    def broadcast_weights(self) -> None:
        """Bring the weights that their owners have changed to all ranks."""

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters."""
        for tensor in (*self.parameters.values(), *self.owned.values()):
            tensor.grad = None


class ShardedOptimizerState(ParameterSharding):
    """zero1: weights are replicated, optimizer state is sharded by matrix. Gradients are reduced during backward."""

    kind = "zero1"

    def __init__(self, model: nn.Module, specs: Specs, ranks: Ranks) -> None:
        super().__init__(model, specs, ranks)
        elsewhere = {name for name in self.matrices if self.owner[name] != ranks.index}
        self.owned = {name: tensor for name, tensor in self.parameters.items() if name not in elsewhere}
        self.order = list(reversed(self.matrices))
        """the order in which a backward pass completes gradients, and in which all ranks reduce them"""
        self.started: list[Any] = []
        """reductions under way, the first of `order`"""
        self.ready: set[str] = set()
        for name in self.matrices:
            self.parameters[name].register_post_accumulate_grad_hook(lambda _, name=name: self._reduce(name))
        self.broadcast_weights()

    def _reduce(self, name: str) -> None:
        """Mark gradient `name` as ready, and start the reductions that are next in the order as far as they are."""
        self.ready.add(name)
        while len(self.started) < len(self.order) and (following := self.order[len(self.started)]) in self.ready:
            gradient = _gradient(self.parameters[following])
            self.started.append(dist.reduce(gradient, self.owner[following], async_op=True))

    def _reduce_matrix_gradients(self) -> None:
        for name in self.order:  # those that this loss does not depend on
            self._reduce(name)
        for work in self.started:
            work.wait()
        self.started, self.ready = [], set()
        for name in self.matrices:
            if self.owner[name] == self.ranks.index:
                _gradient(self.parameters[name]).div_(self.ranks.count)

    @torch.no_grad()
    def broadcast_weights(self) -> None:
        """Broadcast each matrix from its owner."""
        matrices = ((self.parameters[name].detach(), self.owner[name]) for name in self.matrices)
        for work in [dist.broadcast(matrix, owner, async_op=True) for matrix, owner in matrices]:
            assert work is not None  # it would be on a rank outside the group
            work.wait()


class FullyShardedParameters(ParameterSharding):
    """fsdp (FSDP2): weights, gradients and optimizer state of the matrices are sharded over the ranks.

    Weights are gathered for the pass through a block, the embedding or the head, and FSDP2 averages gradients onto
    shards during the backward pass.
    """

    kind = "fsdp"

    def __init__(self, model: nn.Module, specs: Specs, ranks: Ranks, device: torch.device, *, dim: int = 0) -> None:
        """Move a model on the CPU to `device` block by block, so that the whole of it need not fit there.

        dim: the dimension along which the matrices are sharded, 0 or 1; if 1, the number of ranks must divide its size.
        """
        from torch.distributed.device_mesh import init_device_mesh  # slow to import, and needed here alone
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import Shard

        super().__init__(model, specs, ranks)
        others = {parameter for name, parameter in self.parameters.items() if name not in set(self.matrices)}
        for parameter in others:
            parameter.data = parameter.data.to(device)
        mesh = init_device_mesh(device.type, (ranks.count,))
        settings: dict[str, Any] = dict(mesh=mesh, ignored_params=others, shard_placement_fn=lambda _: Shard(dim))
        self.unsharded: list[Any] = []
        """modules whose weights stay gathered from a forward pass until the next backward pass is through them"""
        for child in model.children():
            blocks = list(child) if isinstance(child, nn.Sequential) else []
            for part in blocks or [child]:
                if any(parameter.ndim == 2 for parameter in part.parameters()):
                    fully_shard(part, reshard_after_forward=bool(blocks), **settings)
                    self.unsharded += [] if blocks else [part]
        fully_shard(model, **settings)
        self.parameters = dict(model.named_parameters())
        self.owned, self.partial = dict(self.parameters), frozenset(self.matrices)

    def broadcast_weights(self) -> None:
        """Make the next pass gather the weights anew, also where a validation has left them gathered."""
        for part in self.unsharded:
            part.reshard()


def shard_model(
    model: nn.Module, specs: Specs, ranks: Ranks, kind: Literal["zero1", "fsdp"], device: torch.device
) -> ParameterSharding:
    """Move `model`, or this rank's shard of it, to `device` and return how the ranks divide its parameters."""
    if ranks.count > 1 and kind == "fsdp":
        return FullyShardedParameters(model, specs, ranks, device)
    model.to(device)
    return (ParameterSharding if ranks.count == 1 else ShardedOptimizerState)(model, specs, ranks)


def _gradient(tensor: Tensor) -> Tensor:
    """Return the gradient of `tensor`: zero if the loss does not depend on it."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return tensor.grad
