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


def to_owners(travelling: Sequence[Travelling]) -> Callable[[Sequence[Tensor]], None]:
    """Send shards to their owners; what is returned waits, and writes the wholes of this rank's to the tensors given.

    All of one process group, and given in the same order by all its ranks.
    """
    cut = travelling[0].cut
    mine = [one for one in travelling if one.owner == cut.index]
    shapes = [torch.empty(one.like.shape, dtype=one.shard.dtype, device="meta") for one in mine]
    finish = _swap(cut.group, _shards(travelling), _parts(mine, shapes, cut.count), travelling[0].shard.device)
    return lambda wholes: finish(_parts(mine, wholes, cut.count))


def to_shards(travelling: Sequence[Travelling], wholes: Sequence[Tensor]) -> Callable[[], None]:
    """The inverse: send the `wholes` that this rank owns of `travelling`; what is returned waits, and writes shards."""
    cut = travelling[0].cut
    mine = [one for one in travelling if one.owner == cut.index]
    arriving = _shards(travelling)
    finish = _swap(cut.group, _parts(mine, wholes, cut.count), arriving, travelling[0].shard.device)
    return lambda: finish(arriving)


ByRank = list[list[Tensor]]
"""Tensors that go to each rank of a group, or come from it"""


def _shards(travelling: Sequence[Travelling]) -> ByRank:
    """The shards on this rank, by the owners of their wholes."""
    return [[one.shard for one in travelling if one.owner == rank] for rank in range(travelling[0].cut.count)]


def _parts(mine: Sequence[Travelling], wholes: Sequence[Tensor], count: int) -> ByRank:
    """Of wholes that this rank owns the parts, by the `count` ranks where they lie."""
    parts = [one.cut.parts(whole) for one, whole in zip(mine, wholes, strict=True)]
    return [[of_whole[rank] for of_whole in parts] for rank in range(count)]


def _swap(group: Any, leaving: ByRank, arriving: ByRank, device: torch.device) -> Callable[[ByRank], None]:
    """Send each rank its tensors of `leaving`; what is returned waits, and writes what has come to the tensors given.

    arriving: tensors of the sizes that will come from each rank. As bytes: tensors of every dtype go in one exchange,
    by every backend.
    """
    sizes_out, sizes_in = ([sum(tensor.nbytes for tensor in of) for of in by] for by in (leaving, arriving))
    received, nothing = (torch.empty(size, dtype=torch.uint8, device=device) for size in (sum(sizes_in), 0))
    sent = [tensor.contiguous().view(-1).view(torch.uint8) for of in leaving for tensor in of]
    packed = torch.cat([nothing, *sent])
    work = dist.all_to_all_single(received, packed, sizes_in, sizes_out, group=group, async_op=True)

    def finish(places: ByRank) -> None:
        work.wait()
        flat = [tensor for of in places for tensor in of]
        for place, content in zip(flat, received.split([place.nbytes for place in flat]), strict=True):
            place.copy_(content.clone().view(place.dtype).view(place.shape))  # a clone begins where its dtype may begin

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
