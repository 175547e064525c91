"""SimpleMuon and lazy projection on matrices sharded as by FSDP2: bitwise equal to the results on whole matrices."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from several_ranks import on_ranks
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from ngpt import polar, sphere
from ngpt.model.roles import ParameterSpec, Role
from ngpt.optim import sharded
from ngpt.optim.muon import SimpleMuon
from ngpt.optim.projection import LazyProjection

SHAPES = [(5, 12), (12, 5), (8, 8), (7, 16), (8, 8), (3, 3), (8, 8)]
"""Seven matrices, a number that 2, 3 or 4 ranks cannot share equally, with sides that none of these divides"""

OPTIONS: list[dict[str, Any]] = [
    {}, {"weight_decay": 0.5, "nesterov": False}, {"geodesic": "lr"}, {"geodesic": "lr-norm", "tangent": "before"},
    {"tangent": "gradient", "momentum_transport": "project"}, {"geodesic": "lr", "tangent": "gradient"},
    {"normuon": "short-axis"}, {"normuon": "rows", "match_step": "rms"}, {"match_step": "angle"},
    {"cautious_wd": True, "weight_decay": 0.5, "geodesic": "lr-norm"}, {"tangent": "after", "normuon": "rows"},
    {"geodesic": "lr-norm", "momentum_transport": "parallel", "normuon": "rows"},
    {"tangent": "both", "momentum_transport": "project"}, {"orthogonalizer": "svd", "polar_dtype": torch.float64},
    {"orthogonalizer": "polar-express", "adjust_lr_fn": "match_rms_adamw", "polar_dtype": torch.float32},
]  # fmt: skip


def unit(shape: tuple[int, ...], dim: int) -> Tensor:
    return sphere.project(torch.randn(shape), dim=dim)


def gradients_of(parameters: Sequence[Tensor]) -> None:
    """Return the same matrices on every rank and in one process, given equally many earlier draws."""
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, dtype=parameter.dtype)
        if isinstance(parameter, DTensor):
            gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
        parameter.grad = gradient


def in_shards(whole: Sequence[Tensor], mesh: DeviceMesh, placements: list[Placement]) -> list[nn.Parameter]:
    return [nn.Parameter(distribute_tensor(tensor.clone(), mesh, placements)) for tensor in whole]


def same_bits(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(sharded.full_tensor(found), expected)


def same(found: Tensor, expected: Tensor, options: dict[str, Any]) -> bool:
    """Check bitwise equality where PyTorch rounds an entry the same wherever it lies in memory.

    On a CPU it does not in bfloat16, nor with angles, where the last entries of a row take another code path.
    """
    if expected.dtype == torch.bfloat16:
        return torch.allclose(sharded.full_tensor(found), expected, rtol=2**-6, atol=2**-7)
    if "geodesic" in options or "momentum_transport" in options:
        return torch.allclose(sharded.full_tensor(found), expected, rtol=0, atol=1e-5)
    return same_bits(found, expected)


def compare_steps(layout: str, dtype: torch.dtype) -> None:
    """Three steps, or one in bfloat16, with all options, sharded along either dimension, unit vectors along either."""
    size = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, size // 2) if layout == "hybrid" else (size,))
    for options, dim, cut in itertools.product(OPTIONS, (0, -1), (0, 1)):
        if dtype == torch.bfloat16 and "momentum_transport" in options:  # a turn too small for its own rounding
            continue
        placements: list[Placement] = [Replicate()] * (layout == "hybrid") + [Shard(cut)]
        torch.manual_seed(1)
        drawn = [unit(shape, dim).to(dtype) for shape in SHAPES]
        pair = [nn.Parameter(tensor.clone()) for tensor in drawn], in_shards(drawn, mesh, placements)
        settings = {"lr": 0.05, "sphere_dim": dim, "weight_decay": 0.0, **options}
        if "geodesic" in options or "momentum_transport" in options:  # or a rounding could become one of bfloat16
            settings["polar_dtype"] = torch.float32
        optimizers = [SimpleMuon(parameters, **settings) for parameters in pair]
        for step in range(1 if dtype == torch.bfloat16 else 3):
            for parameters, optimizer in zip(pair, optimizers, strict=True):
                torch.manual_seed(step)
                gradients_of(parameters)
                optimizer.step()
        for whole, part in zip(*pair, strict=True):
            states = optimizers[0].state[whole], optimizers[1].state[part]
            assert same(part, whole, options), (options, dim, cut, tuple(whole.shape))
            assert set(states[0]) == set(states[1])
            for key, value in states[0].items():
                assert same(states[1][key], value, options), (options, dim, cut, tuple(whole.shape), key)
        assert not any(torch.equal(whole, tensor) for whole, tensor in zip(pair[0], drawn, strict=True))


@pytest.mark.parametrize(
    ("count", "layout", "dtype"),
    [
        (3, "plain", torch.float32), (2, "plain", torch.bfloat16),
        pytest.param(4, "hybrid", torch.float32, marks=pytest.mark.slow),
        *(pytest.param(count, "plain", dtype, marks=pytest.mark.slow)
          for count in (2, 4, 8) for dtype in (torch.float32, torch.bfloat16, torch.float64)),
    ],
)  # fmt: skip
def test_a_step_on_shards_is_the_step_on_whole_matrices(
    count: int, layout: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    on_ranks(compare_steps, count, tmp_path, layout, dtype)


def compare_projections() -> None:
    """Drifted weights, some without direction: start, projection, and a validation that leaves no trace."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for cut, dim in itertools.product((0, 1), (0, -1)):
        torch.manual_seed(2)
        drawn = [unit(shape, dim) * torch.rand(shape) * 3 for shape in SHAPES]
        drawn[0].zero_()
        specs = {str(i): ParameterSpec(Role.HIDDEN if i % 2 else Role.HEAD, dim) for i in range(len(drawn))}
        pair = [tensor.clone() for tensor in drawn], [p.detach() for p in in_shards(drawn, mesh, [Shard(cut)])]
        whole, part = (
            LazyProjection(dict(zip(specs, tensors, strict=True)), specs, every=1, roles={Role.HIDDEN})
            for tensors in pair
        )
        drifts = [max(float(of.drift()[role]) for role in (Role.HIDDEN, Role.HEAD)) for of in (whole, part)]
        told = torch.tensor([drifts[1]])
        dist.all_reduce(told, dist.ReduceOp.MAX)
        assert told.item() == pytest.approx(drifts[0], rel=1e-6)
        with part.projected():
            check_unit(pair[1][1::2], dim)
            assert all(same_bits(found, tensor) for found, tensor in zip(pair[1][::2], drawn[::2], strict=True))
        assert all(same_bits(found, tensor) for found, tensor in zip(pair[1], drawn, strict=True))
        whole.start()
        part.start()
        for found, expected in zip(*reversed(pair), strict=True):
            exact = cut != dim % 2  # the sums of squares of a vector that is cut have another order
            assert torch.allclose(sharded.full_tensor(found), expected, rtol=0 if exact else 1e-6, atol=0)
        assert not sharded.full_tensor(pair[1][0]).any()


def check_unit(tensors: Sequence[Tensor], dim: int) -> None:
    for tensor in tensors:
        assert ((sphere.norm(sharded.full_tensor(tensor), dim=dim) - 1).abs() < 1e-6).all()


@pytest.mark.parametrize("count", [3, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_shards_are_projected_along_whole_vectors(count: int, tmp_path: Path) -> None:
    on_ranks(compare_projections, count, tmp_path)


def count_work() -> None:
    """Over all ranks, each polar factor is computed once, on a whole matrix; state stays sharded."""
    count, rank = dist.get_world_size(), dist.get_rank()
    mesh = init_device_mesh("cpu", (count,))
    torch.manual_seed(3)
    shapes = [(16, 48), (48, 16), *[(16, 16)] * 5]
    parameters = in_shards([torch.randn(shape) for shape in shapes], mesh, [Shard(0)])
    orthogonalize, worked = polar.orthogonalize, torch.zeros(count)

    def count_and_do(X: Tensor, **options: Any) -> Tensor:
        assert tuple(X.shape[1:]) in shapes
        worked[rank] += len(X) * sharded.polar_work(X.shape[1:])
        return orthogonalize(X, **options)

    polar.orthogonalize = count_and_do  # in a process of its own
    optimizer = SimpleMuon(parameters, lr=0.1, normuon="short-axis")
    gradients_of(parameters)
    optimizer.step()
    dist.all_reduce(worked)
    work = [float(sharded.polar_work(shape)) for shape in shapes]
    assert worked.sum().item() == sum(work)
    assert worked.max().item() <= sum(work) / count + max(work) * (1 - 1 / count)
    kept = {key: 0 for key in ("momentum_buffer", "second_momentum_buffer")}
    for state in optimizer.state.values():
        for key, value in state.items():
            kept[key] += value.to_local().numel()
    numbers = sum(m * n for m, n in shapes)
    assert kept["momentum_buffer"] == numbers / count
    assert kept["second_momentum_buffer"] == sum(max(shape) for shape in shapes) / count


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_each_rank_orthogonalizes_its_share_and_keeps_its_shards_state(count: int, tmp_path: Path) -> None:
    on_ranks(count_work, count, tmp_path)


def model() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(3)))


def step(of: nn.Module, optimizer: SimpleMuon, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(8, 6)
    of(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def fsdp_and_its_checkpoints() -> None:
    """A third-party model under fully_shard, with PyTorch's full and sharded state dicts."""
    settings: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.0, "sphere_dim": -1, "geodesic": "lr-norm"}
    settings["normuon"] = "rows"
    plain, parts = model(), model()
    for layer in parts.children():
        fully_shard(layer)
    fully_shard(parts)
    optimizers = SimpleMuon(plain.parameters(), **settings), SimpleMuon(parts.parameters(), **settings)
    for seed in range(3):
        step(plain, optimizers[0], seed)
        step(parts, optimizers[1], seed)
    whole = dcp.StateDictOptions(full_state_dict=True)
    saved = dcp.get_optimizer_state_dict(parts, optimizers[1], options=whole)
    for (name, parameter), part in zip(plain.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(sharded.full_tensor(part), parameter.detach(), rtol=1e-5, atol=1e-6)
        for key, value in optimizers[0].state[parameter].items():
            torch.testing.assert_close(saved["state"][name][key], value, rtol=1e-5, atol=1e-7)
    again = SimpleMuon(parts.parameters(), **settings)
    dcp.set_optimizer_state_dict(parts, again, dcp.get_optimizer_state_dict(parts, optimizers[1]))
    for part in parts.parameters():
        for key, value in optimizers[1].state[part].items():
            assert same_bits(again.state[part][key], sharded.full_tensor(value))
    again.load_state_dict(optimizers[1].state_dict())
    step(parts, again, 3)


def test_it_is_the_optimizer_of_any_model_under_fsdp(tmp_path: Path) -> None:
    on_ranks(fsdp_and_its_checkpoints, 2, tmp_path)


def refusals_and_whole_copies() -> None:
    mesh = init_device_mesh("cpu", (2,))
    drawn, grid = torch.randn(4, 6), init_device_mesh("cpu", (2, 1))
    for of, placements in ((mesh, [Partial()]), (grid, [Shard(0), Shard(1)])):
        tensor = DTensor.from_local(drawn, of, placements, run_check=False)
        with pytest.raises(ValueError, match="sharded along one dimension"):
            SimpleMuon([nn.Parameter(tensor, requires_grad=False)])
    (copied,), whole = in_shards([drawn], mesh, [Replicate()]), nn.Parameter(drawn.clone())
    for parameter in (copied, whole):
        optimizer = SimpleMuon([parameter], normuon="rows")
        torch.manual_seed(5)
        gradients_of([parameter])
        optimizer.step()
    assert same_bits(copied, whole)
    (in_parts,) = in_shards([drawn], mesh, [Shard(0)])
    in_parts.grad = distribute_tensor(whole.grad, mesh, [Replicate()])  # not as the parameter lies
    SimpleMuon([in_parts], normuon="rows").step()
    assert same_bits(in_parts, whole)


def test_what_is_cut_twice_is_refused_and_what_every_rank_has_is_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    on_ranks(refusals_and_whole_copies, 2, tmp_path)


# --- dealing work out ------------------------------------------------------------------------------------------------


def test_work_is_dealt_largest_first_to_the_rank_with_the_least() -> None:
    loads = [0.0, 0.0]
    assert sharded.balance([1, 5, 3, 4], loads) == [0, 0, 1, 1] and loads == [6.0, 7.0]
    assert sharded.balance([2], loads) == [0] and loads == [8.0, 7.0]
    assert sharded.balance([], [0.0]) == []


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(5, 12), (2, 3), (7, 7)])
@pytest.mark.parametrize("dim", [0, 1])
def test_parts_are_torchs_chunks_and_empty_beyond(shape: tuple[int, int], dim: int, count: int) -> None:
    whole = torch.randn(shape)
    parts = sharded.ShardLayout(None, count, 0, dim).parts(whole)
    assert len(parts) == count and torch.equal(torch.cat(parts, dim), whole)
    assert [p.size(dim) for p in parts if p.numel()] == [p.size(dim) for p in whole.chunk(count, dim)]
