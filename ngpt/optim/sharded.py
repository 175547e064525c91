"""Matrices that lie in shards over ranks (DTensor, as of FSDP2), and the whole of each on the rank that owns it.

A shard may end anywhere, be it inside a unit vector. What works on single entries works on shards as they are; for what
needs whole vectors or whole matrices they come together on an owner and go back, all in one exchange of bytes.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from ngpt import sphere

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Cut:
    """How the ranks of a process group hold a tensor: cut along `dim` into `count` parts, this rank the `index`-th."""

    group: Any
    count: int
    index: int
    dim: int

    def parts(self, whole: Tensor) -> list[Tensor]:
        """Views of a tensor as it is cut, one for each rank; empty ones where there is nothing left."""
        found = list(whole.chunk(self.count, self.dim))
        return found + [whole.narrow(self.dim, 0, 0)] * (self.count - len(found))


def cut_of(tensor: Tensor) -> Cut | None:
    """How `tensor` is cut; None if it is whole here, a plain tensor or a DTensor that every rank has.

    Copies on several ranks beside the cut are fine (HSDP). Raises ValueError for more than one cut, and for partial
    sums.
    """
    if not _is_dtensor(tensor):
        return None
    from torch.distributed.tensor import Shard

    placements = [(at, placement) for at, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if not placements:
        return None
    ((at, placement), *more) = placements
    if more or type(placement) is not Shard:
        raise ValueError(f"a matrix may be cut along one dimension, not {tuple(tensor.placements)}")
    mesh = tensor.device_mesh
    return Cut(mesh.get_group(at), mesh.size(at), mesh.get_local_rank(at), placement.dim % tensor.ndim)


def _is_dtensor(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Without importing DTensor, which takes half a second that a run of one process has no use for."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_of(tensor: Tensor) -> Tensor:
    """What lies on this rank, of the same memory; a plain tensor itself."""
    return tensor.to_local().detach() if _is_dtensor(tensor) else tensor


def whole_of(tensor: Tensor) -> Tensor:
    """A tensor with all its shards, on every rank; all call it together."""
    return tensor.full_tensor().detach() if _is_dtensor(tensor) else tensor


def laid_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient that lies on the ranks as its parameter does; FSDP2's do."""
    if not _is_dtensor(parameter) or not _is_dtensor(gradient) or gradient.placements == parameter.placements:
        return gradient
    return gradient.redistribute(placements=parameter.placements)


def cut_like(whole: Tensor, like: Tensor) -> Tensor:
    """`whole`, which every rank has, as it lies beside `like`: in shards if that does, a state of no dimension whole.

    Of the same shape it is cut as `like` is; of another shape along its longest dimension.
    """
    cut = cut_of(like)
    if cut is None or not _is_dtensor(like) or not whole.ndim:
        return whole
    from torch.distributed.tensor import DTensor, Shard

    dim = cut.dim if whole.shape == like.shape else max(range(whole.ndim), key=whole.size)
    placements = [placement if placement.is_replicate() else Shard(dim) for placement in like.placements]
    mine = Cut(cut.group, cut.count, cut.index, dim).parts(whole)[cut.index].to(like.device, copy=True).contiguous()
    return DTensor.from_local(
        mine, like.device_mesh, placements, run_check=False, shape=whole.shape, stride=whole.contiguous().stride()
    )


def write_whole(tensor: Tensor, whole: Tensor) -> None:
    """Copy `whole`, which every rank has, into a tensor of its shape: of one in shards this rank's part."""
    local_of(tensor).copy_(local_of(cut_like(whole, tensor)))


def dealt(work: Sequence[float], loads: list[float]) -> list[int]:
    """A rank for each piece of work: the largest first to the rank with the least so far. Adds to `loads`, by rank."""
    ranks = [0] * len(work)
    for piece in sorted(range(len(work)), key=lambda piece: -work[piece]):
        ranks[piece] = min(range(len(loads)), key=lambda rank: loads[rank])
        loads[ranks[piece]] += work[piece]
    return ranks


def polar_work(shape: Sequence[int]) -> int:
    """What a polar iteration of a matrix takes, up to a factor: m n min(m, n)."""
    m, n = shape
    return m * n * min(m, n)


# --- journeys --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Travelling:
    """A rank's part of a tensor that is cut as `like` is, of its shape, and the rank on which all of it comes together.

    The part may be of another dtype.
    """

    shard: Tensor
    like: Tensor
    owner: int

    @property
    def cut(self) -> Cut:
        """How it is cut."""
        cut = cut_of(self.like)
        assert cut is not None
        return cut


def to_owners(travelling: Sequence[Travelling]) -> Callable[[], list[Tensor]]:
    """Send shards to their owners; what is returned waits, and gives the whole of those that this rank owns.

    All of one process group, and given in the same order by all its ranks.
    """
    wholes = [one.shard.new_empty(one.like.shape) for one in travelling if one.owner == one.cut.index]
    at_owners, at_shards = _places(travelling, wholes)
    finish = _swap(travelling[0].cut.group, at_shards, at_owners)

    def arrived() -> list[Tensor]:
        finish()
        return wholes

    return arrived


def to_shards(travelling: Sequence[Travelling], wholes: Sequence[Tensor]) -> Callable[[], None]:
    """The inverse: send the `wholes` that this rank owns of `travelling`; what is returned waits, and writes shards."""
    at_owners, at_shards = _places(travelling, wholes)
    return _swap(travelling[0].cut.group, at_owners, at_shards)


def _places(
    travelling: Sequence[Travelling], wholes: Sequence[Tensor]
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """By rank of the group: the parts of this rank's wholes that lie there, and this rank's shards of wholes there."""
    cuts = [(one.cut, one.owner) for one in travelling]
    mine = [cut for cut, owner in cuts if owner == cut.index]
    parts, ranks = [cut.parts(whole) for cut, whole in zip(mine, wholes, strict=True)], range(cuts[0][0].count)
    shards = [[one.shard for one in travelling if one.owner == rank] for rank in ranks]
    return [[of[rank] for of in parts] for rank in ranks], shards


def _swap(group: Any, leaving: list[list[Tensor]], arriving: list[list[Tensor]]) -> Callable[[], None]:
    """Send each rank its tensors of `leaving`; what is returned waits, and writes those that `arriving` has of each.

    As bytes: tensors of every dtype go in one exchange, by every backend.
    """
    sizes_out, sizes_in = ([sum(t.numel() * t.element_size() for t in of) for of in by] for by in (leaving, arriving))
    sent = [tensor.contiguous().view(-1).view(torch.uint8) for of in leaving for tensor in of]
    device = next(tensor.device for by in (leaving, arriving) for of in by for tensor in of)
    nothing = torch.empty(0, dtype=torch.uint8, device=device)
    packed, received = torch.cat([nothing, *sent]), torch.empty(sum(sizes_in), dtype=torch.uint8, device=device)
    work = dist.all_to_all_single(received, packed, sizes_in, sizes_out, group=group, async_op=True)

    def finish() -> None:
        work.wait()
        places = [tensor for of in arriving for tensor in of]
        came = received.split([place.numel() * place.element_size() for place in places])
        for place, content in zip(places, came, strict=True):  # a clone starts where its dtype may start
            place.copy_(content.clone().view(place.dtype).view(place.shape))

    return finish


# --- unit vectors ----------------------------------------------------------------------------------------------------


def cuts_vectors(tensor: Tensor, dim: int) -> bool:
    """Whether the vectors along `dim` lie on several ranks each."""
    cut = cut_of(tensor)
    return cut is not None and cut.dim == dim % tensor.ndim


def lengths(vectors: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
    """Length of each vector along a dimension of a tensor, for several (tensor, dimension), of what lies on this rank.

    As `ngpt.sphere.norm`; of vectors that are cut the whole length, all of them in one sum over the ranks.
    """
    found: list[Tensor] = []
    apart: list[tuple[int, Cut]] = []
    for tensor, dim in vectors:
        cut = cut_of(tensor)
        found.append(sphere.norm(local_of(tensor), dim=dim))
        if cut is not None and cuts_vectors(tensor, dim):
            apart.append((len(found) - 1, cut))
    for group in dict.fromkeys(cut.group for _, cut in apart):
        indices = [index for index, cut in apart if cut.group is group]
        flat = torch.cat([found[index].square().flatten() for index in indices])
        dist.all_reduce(flat, group=group)
        parts = flat.sqrt().split([found[index].numel() for index in indices])
        for index, part in zip(indices, parts, strict=True):
            found[index] = part.view_as(found[index])
    return found
