"""Which rank steps which parameter, and how gradients get to it and weights get back.

Every matrix has an owner: the one rank that holds its optimizer state, makes its step and projects it, on the whole
matrix, by the code that a run of one process uses. Gradients are summed onto the owner, and the owner's weights are
published to all. That sends as much as averaging the gradients everywhere does, and each rank orthogonalises its share.
Vectors and scalars are few numbers: every rank steps all of them, on gradients averaged everywhere.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ngpt.model.roles import ParameterSpec, Role
from ngpt.ranks import ALONE, Ranks


def owners(shapes: Mapping[str, tuple[int, ...]], specs: Mapping[str, ParameterSpec], count: int) -> dict[str, int]:
    """The rank that owns each parameter, by name; vectors and scalars, which all ranks step, belong to the first.

    Largest first to the rank with the least so far: hidden matrices by the operations of a polar iteration,
    m n min(m, n), then the other matrices by their size on top of the hidden ones'. A pure function of its arguments.
    Of more ranks than matrices, some own none.
    """
    work, elements = [0] * count, [0] * count
    owner = dict.fromkeys(shapes, 0)
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2 and specs[name].role != Role.FROZEN}
    hidden = {name: m * n * min(m, n) for name, (m, n) in matrices.items() if specs[name].role == Role.HIDDEN}
    for name in sorted(hidden, key=lambda name: -hidden[name]):
        rank = min(range(count), key=lambda r: (work[r], elements[r]))
        owner[name] = rank
        work[rank] += hidden[name]
        elements[rank] += matrices[name][0] * matrices[name][1]
    others = {name: m * n for name, (m, n) in matrices.items() if name not in hidden}
    for name in sorted(others, key=lambda name: -others[name]):
        rank = min(range(count), key=lambda r: elements[r])
        owner[name] = rank
        elements[rank] += others[name]
    return owner


class Shares:
    """The parameters of a run of one process: all are its own. The base of those of several ranks."""

    def __init__(self, model: nn.Module, specs: Mapping[str, ParameterSpec], ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.parameters = dict(model.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        self.trained = [name for name in self.parameters if specs[name].role != Role.FROZEN]
        self.owner = owners(shapes, specs, ranks.count)
        self.owned: dict[str, Tensor] = dict(self.parameters)
        """By name: what this rank steps"""
        self.rows: set[str] = set()
        """Of `owned`, what is there in part: the rows that are this rank's; all else is whole"""

    def _parameter_of(self, key: str) -> str | None:
        """The parameter that a key `<parameter>`, `<of what>.<parameter>` or `<of what>.<parameter>.<which>` names."""
        rest = key.partition(".")[2]
        return next((name for name in (key, rest, rest.rpartition(".")[0]) if name in self.parameters), None)

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the first rank what all ranks have, by such keys, in whole tensors; elsewhere nothing."""
        in_rows = {key for key, tensor in tensors.items() if tensor.ndim and self._parameter_of(key) in self.rows}
        return self.ranks.gather(tensors, in_rows)

    def own_part(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `gather`: all but what is of a parameter that another rank owns."""
        found = {}
        for key, tensor in tensors.items():
            name = self._parameter_of(key)
            if name is None or name in self.owned:
                cut = name in self.rows and tensor.ndim > 0
                found[key] = shards_of(tensor, self.ranks.count, 0)[self.ranks.index].clone() if cut else tensor
        return found

    def collect(self, loss: Tensor) -> tuple[list[Tensor], Tensor]:
        """After a backward pass: the gradients of what this rank steps, and (loss, gradient norm) of the whole batch.

        `loss`: of this rank's part of the batch; all parts have one size.
        """
        gradients = [tensor.grad for tensor in self.owned.values() if tensor.grad is not None]
        norms = torch._foreach_norm(gradients)  # torch.nn.utils.get_total_norm without its grouping by device
        return gradients, torch.stack([loss.detach(), torch.linalg.vector_norm(torch.stack(norms))])

    def publish(self) -> None:
        """Bring the weights that their owners have changed to all ranks."""

    def forget_gradients(self) -> None:
        """Of all parameters."""
        for tensor in (*self.parameters.values(), *self.owned.values()):
            tensor.grad = None


class _Shared(Shares):
    """What replicas and shards have in common: every rank steps its matrices and all vectors and scalars."""

    def __init__(self, model: nn.Module, specs: Mapping[str, ParameterSpec], ranks: Ranks) -> None:
        super().__init__(model, specs, ranks)
        self.matrices = [name for name in self.trained if self.parameters[name].ndim == 2]
        self.small = [name for name in self.trained if self.parameters[name].ndim != 2]
        self.owned = {
            name: tensor for name, tensor in self.parameters.items()
            if name not in set(self.matrices) or self.owner[name] == ranks.index
        }  # fmt: skip

    def _bring_gradients(self) -> None:
        """Of the matrices, averaged, to their owners."""
        raise NotImplementedError

    def collect(self, loss: Tensor) -> tuple[list[Tensor], Tensor]:
        self._bring_gradients()
        small = [_gradient(self.parameters[name]) for name in self.small]
        flat = self.ranks.add(torch.cat([gradient.flatten() for gradient in small])).div_(self.ranks.count)
        for gradient, part in zip(small, flat.split([gradient.numel() for gradient in small]), strict=True):
            gradient.copy_(part.view_as(gradient))
        gradients = {name: _gradient(self.owned[name]) for name in self.trained if name in self.owned}
        norms = dict(zip(gradients, torch._foreach_norm(list(gradients.values())), strict=True))
        mine = {name: norm for name, norm in norms.items() if self.owner[name] == self.ranks.index}
        mine |= {name: norms[name].square() for name in self.rows}
        nothing = torch.zeros((), device=loss.device)
        told = torch.stack([loss.detach() / self.ranks.count, *(mine.get(name, nothing) for name in self.trained)])
        loss_and_norms = list(self.ranks.add(told))
        whole = [n.sqrt() if name in self.rows else n for name, n in zip(self.trained, loss_and_norms[1:], strict=True)]
        return list(gradients.values()), torch.stack([loss_and_norms[0], torch.linalg.vector_norm(torch.stack(whole))])


class Replicas(_Shared):
    """Every rank holds all weights; gradients travel while the backward pass goes on."""

    def __init__(self, model: nn.Module, specs: Mapping[str, ParameterSpec], ranks: Ranks) -> None:
        super().__init__(model, specs, ranks)
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
    """FSDP2: weights and gradients of the matrices lie sharded over the ranks, and come together for each block's pass.

    A rank also keeps the whole of the hidden matrices that it owns, beside their optimizer state. After the backward
    pass the shards of their gradients come together there, and after the step shards of the weights go back: an Nth of
    what the passes themselves send. So a step never sees where a shard ends, be it inside a unit vector. AdamW's
    matrices, whose unit vectors are rows, need none of this: of them every rank steps its own rows.
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
        whole = {name: self.parameters[name].detach() for name in self.matrices}
        others = {parameter for name, parameter in self.parameters.items() if name not in whole}
        for parameter in others:
            parameter.data = parameter.data.to(device)
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (ranks.count,)), "ignored_params": others,
            "shard_placement_fn": lambda _: Shard(dim),
        }  # fmt: skip
        for block in model.blocks:  # type: ignore[union-attr]
            fully_shard(block, **settings)
        fully_shard(model, **settings)
        self.parameters, self.dim = dict(model.named_parameters()), dim
        if dim == 0:
            of_adamw = {name for name in self.matrices if specs[name].role != Role.HIDDEN}
            self.rows = {name for name in of_adamw if specs[name].sphere_dim != 0}
            self.owned |= {name: nn.Parameter(self._local(name)) for name in self.rows}  # the same memory
        self.travelling = [name for name in self.matrices if name not in self.rows]
        for name in self.travelling:
            if self.owner[name] == ranks.index:
                self.owned[name] = nn.Parameter(whole[name].to(device, copy=True))
        self.owned = {name: self.owned[name] for name in self.parameters if name in self.owned}
        self.publish()

    def _local(self, name: str) -> Tensor:
        """The shard of a matrix that lies on this rank."""
        shard: Tensor = self.parameters[name].detach().to_local()  # type: ignore[attr-defined]
        return shard

    def _exchange(self, tensors: Mapping[str, tuple[Tensor, Tensor | None]], *, to_owners: bool) -> None:
        """Between the owners' whole matrices and the ranks' shards of them, by name (shard, whole or None)."""
        me, requests, arriving = self.ranks.index, list[Any](), list[tuple[Tensor, Tensor]]()
        for tag, (name, (shard, whole)) in enumerate(tensors.items()):
            parts = [] if whole is None else shards_of(whole, self.ranks.count, self.dim)
            others = range(self.ranks.count) if self.owner[name] == me else [self.owner[name]]
            for other in others:
                mine = parts[other] if parts else shard
                if other == me:
                    arriving.append((mine, shard) if to_owners else (shard, mine))
                elif mine.numel():
                    leaving = to_owners != bool(parts)
                    buffer = (
                        mine.contiguous() if leaving else torch.empty_like(mine, memory_format=torch.contiguous_format)
                    )
                    requests.append(dist.P2POp(dist.isend if leaving else dist.irecv, buffer, other, tag=tag))
                    if not leaving:
                        arriving.append((mine, buffer))
        for work in dist.batch_isend_irecv(requests) if requests else []:
            work.wait()
        for place, content in arriving:
            place.copy_(content)

    @torch.no_grad()
    def _bring_gradients(self) -> None:
        shards = {}
        for name in self.matrices:
            gradient = self.parameters[name].grad
            shards[name] = torch.zeros_like(self._local(name)) if gradient is None else gradient.to_local()  # type: ignore[attr-defined]
        for name in self.rows:
            self.owned[name].grad = shards[name]
        moving = {}
        for name in self.travelling:
            whole = torch.empty_like(self.owned[name]) if name in self.owned else None
            if whole is not None:
                self.owned[name].grad = whole
            moving[name] = shards[name], whole
        self._exchange(moving, to_owners=True)

    @torch.no_grad()
    def publish(self) -> None:
        """Each owner sends every rank its shard."""
        self._exchange({name: (self._local(name), self.owned.get(name)) for name in self.travelling}, to_owners=False)


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


def shards_of(whole: Tensor, count: int, dim: int) -> list[Tensor]:
    """Views of a tensor cut along `dim` as FSDP2 cuts it, one a rank; empty where there is nothing left for a rank."""
    found = list(whole.chunk(count, dim))
    return found + [whole.narrow(dim, 0, 0)] * (count - len(found))


def _gradient(tensor: Tensor) -> Tensor:
    """Zero where the loss does not depend on `tensor`."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return tensor.grad
