"""Sharded matrices (DTensor, such as FSDP2's), and moving whole matrices to the rank that owns them and back.

A shard may end anywhere, even inside a unit vector. Operations on single entries work on shards as they are. For what
needs whole vectors or matrices, the shards are gathered on an owner and scattered again, all in one exchange of bytes.
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
class ShardLayout:
    """A process group's shards of a tensor: `count` parts along `dim`, of which this rank has the `index`-th."""

    group: Any
    count: int
    index: int
    dim: int

    def parts(self, whole: Tensor) -> list[Tensor]:
        """Return views of a whole tensor, one for each rank; empty ones for ranks beyond its size."""
        found = list(whole.chunk(self.count, self.dim))
        return found + [whole.narrow(self.dim, 0, 0)] * (self.count - len(found))


def shard_layout(tensor: Tensor) -> ShardLayout | None:
    """Return how `tensor` is sharded; None for a plain tensor and for a DTensor that every rank has whole.

    Replicas beside the shards are fine (HSDP). Raises ValueError for shards along several dimensions and for partial
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
        raise ValueError(f"a matrix may be sharded along one dimension, not {tuple(tensor.placements)}")
    mesh = tensor.device_mesh
    return ShardLayout(mesh.get_group(at), mesh.size(at), mesh.get_local_rank(at), placement.dim % tensor.ndim)


def _is_dtensor(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Check without importing DTensor, which takes half a second that a single process does not need."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_of(tensor: Tensor) -> Tensor:
    """Return this rank's shard, sharing its memory; a plain tensor itself."""
    return tensor.to_local().detach() if _is_dtensor(tensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole tensor on every rank; all ranks call it together."""
    return tensor.full_tensor().detach() if _is_dtensor(tensor) else tensor


def placed_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return a gradient that is sharded like its parameter, as FSDP2's gradients already are."""
    if not _is_dtensor(parameter) or not _is_dtensor(gradient) or gradient.placements == parameter.placements:
        return gradient
    return gradient.redistribute(placements=parameter.placements)


def zeros_like(parameter: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a state of zeros of a given shape, sharded if the parameter is."""
    if shape == tuple(parameter.shape):
        return torch.zeros_like(parameter, dtype=dtype)
    return shard_like(torch.zeros(shape, dtype=dtype, device=parameter.device), parameter)


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """Shard `whole`, which every rank has, if `like` is sharded; a 0-dimensional state stays whole.

    A tensor of the shape of `like` is sharded the same way, one of another shape along its longest dimension.
    """
    layout = shard_layout(like)
    if layout is None or not _is_dtensor(like) or not whole.ndim:
        return whole
    from torch.distributed.tensor import DTensor, Shard

    dim = layout.dim if whole.shape == like.shape else max(range(whole.ndim), key=whole.size)
    placements = [placement if placement.is_replicate() else Shard(dim) for placement in like.placements]
    parts = ShardLayout(layout.group, layout.count, layout.index, dim).parts(whole)
    mine = parts[layout.index].to(like.device, copy=True).contiguous()
    return DTensor.from_local(
        mine, like.device_mesh, placements, run_check=False, shape=whole.shape, stride=whole.contiguous().stride()
    )


def copy_full_(tensor: Tensor, whole: Tensor) -> None:
    """Copy `whole`, which every rank has, into a tensor of its shape, or this rank's part of it into its shard."""
    local_of(tensor).copy_(local_of(shard_like(whole, tensor)))


def balance(work: Sequence[float], loads: list[float]) -> list[int]:
    """Assign each piece of work to a rank, the largest first to the least loaded rank; adds to `loads`, by rank."""
    ranks = [0] * len(work)
    for piece in sorted(range(len(work)), key=lambda piece: -work[piece]):
        ranks[piece] = min(range(len(loads)), key=lambda rank: loads[rank])
        loads[ranks[piece]] += work[piece]
    return ranks


def polar_work(shape: Sequence[int]) -> int:
    """Return the cost of one polar iteration of a matrix (m, n), up to a factor: m n min(m, n)."""
    m, n = shape
    return m * n * min(m, n)


# --- transfers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """A shard on this rank of a tensor with the layout of `like`, and the rank on which that tensor is gathered.

    The shard may have another dtype than `like`.
    """

    shard: Tensor
    like: Tensor
    owner: int

    @property
    def layout(self) -> ShardLayout:
        """Its layout."""
        layout = shard_layout(self.like)
        assert layout is not None
        return layout


def gather_to_owners(transfers: Sequence[Transfer]) -> Callable[[Sequence[Tensor]], None]:
    """Send shards to their owners; the function returned waits and writes the whole tensors of this rank.

    It writes them to the tensors it is given. All belong to one process group, whose ranks give them in the same order.
    """
    layout = transfers[0].layout
    mine = [one for one in transfers if one.owner == layout.index]
    shapes = [torch.empty(one.like.shape, dtype=one.shard.dtype, device="meta") for one in mine]
    finish = _exchange(layout.group, _shards(transfers), _parts(mine, shapes, layout.count), transfers[0].shard.device)
    return lambda wholes: finish(_parts(mine, wholes, layout.count))


def scatter_to_shards(transfers: Sequence[Transfer], wholes: Sequence[Tensor]) -> Callable[[], None]:
    """Send back the `wholes` that this rank owns; the function returned waits and writes the shards of `transfers`."""
    layout = transfers[0].layout
    mine = [one for one in transfers if one.owner == layout.index]
    arriving = _shards(transfers)
    finish = _exchange(layout.group, _parts(mine, wholes, layout.count), arriving, transfers[0].shard.device)
    return lambda: finish(arriving)


ByRank = list[list[Tensor]]
"""Tensors to or from each rank of a group"""


def _shards(transfers: Sequence[Transfer]) -> ByRank:
    """Return the shards on this rank, by the owners of their tensors."""
    return [[one.shard for one in transfers if one.owner == rank] for rank in range(transfers[0].layout.count)]


def _parts(mine: Sequence[Transfer], wholes: Sequence[Tensor], count: int) -> ByRank:
    """Return the parts of the whole tensors that this rank owns, by the `count` ranks that hold them."""
    parts = [one.layout.parts(whole) for one, whole in zip(mine, wholes, strict=True)]
    return [[of_whole[rank] for of_whole in parts] for rank in range(count)]


def _exchange(group: Any, leaving: ByRank, arriving: ByRank, device: torch.device) -> Callable[[ByRank], None]:
    """Send each rank its tensors of `leaving`; the function returned waits and writes to the tensors it is given.

    arriving: tensors of the sizes that will come from each rank. Everything is sent as bytes, so that tensors of all
    dtypes share one exchange, whatever the backend.
    """
    sizes_out, sizes_in = ([sum(tensor.nbytes for tensor in of) for of in by] for by in (leaving, arriving))
    received, nothing = (torch.empty(size, dtype=torch.uint8, device=device) for size in (sum(sizes_in), 0))
    sent = [tensor.contiguous().view(-1).view(torch.uint8) for of in leaving for tensor in of]
    packed = torch.cat([nothing, *sent])
    work = dist.all_to_all_single(received, packed, sizes_in, sizes_out, group=group, async_op=True)

    def finish(places: ByRank) -> None:
        assert work is not None  # it would be on a rank outside the group
        work.wait()
        flat = [tensor for of in places for tensor in of]
        for place, content in zip(flat, received.split([place.nbytes for place in flat]), strict=True):
            place.copy_(content.clone().view(place.dtype).view(place.shape))  # a clone is aligned for its dtype

    return finish


# --- unit vectors ----------------------------------------------------------------------------------------------------


def splits_vectors(tensor: Tensor, dim: int) -> bool:
    """Return whether the vectors along `dim` are split over several ranks."""
    layout = shard_layout(tensor)
    return layout is not None and layout.dim == dim % tensor.ndim


def tangents(points: Sequence[Tensor], vectors: Sequence[Tensor], *, dim: int) -> list[Tensor]:
    """Return what lies on this rank of the tangent parts of `vectors` at `points`, all sharded alike.

    As `ngpt.sphere.tangent`. For vectors that are split over ranks there is one all-reduce.
    """
    here = [(local_of(x), local_of(v)) for x, v in zip(points, vectors, strict=True)]
    layout = shard_layout(points[0])
    if layout is None or not splits_vectors(points[0], dim):
        return [sphere.tangent(x, v, dim=dim) for x, v in here]
    products = [sphere.inner(x, other, dim=dim) for x, v in here for other in (x, v)]
    flat = torch.cat([product.flatten() for product in products])
    dist.all_reduce(flat, group=layout.group)
    sums = [part.view_as(of) for part, of in zip(flat.split([p.numel() for p in products]), products, strict=True)]
    return [
        (v - along / square.clamp_min(sphere.UNIT_TINY**2) * x).to(v.dtype)
        for (x, v), square, along in zip(here, sums[::2], sums[1::2], strict=True)
    ]


def vector_lengths(vectors: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
    """Return the lengths of the vectors along a dimension, for each (tensor, dimension), of what lies on this rank.

    As `ngpt.sphere.norm`. For vectors that are split over ranks, the whole length: one all-reduce for all of them.
    """
    found = [sphere.norm(local_of(tensor), dim=dim) for tensor, dim in vectors]
    layouts = [shard_layout(tensor) if splits_vectors(tensor, dim) else None for tensor, dim in vectors]
    for group in dict.fromkeys(layout.group for layout in layouts if layout is not None):
        split = [index for index, layout in enumerate(layouts) if layout is not None and layout.group is group]
        flat = torch.cat([found[index].square().flatten() for index in split])
        dist.all_reduce(flat, group=group)
        parts = flat.sqrt().split([found[index].numel() for index in split])
        for index, part in zip(split, parts, strict=True):
            found[index] = part.view_as(found[index])
    return found


