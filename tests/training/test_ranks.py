"""Runs of several ranks: the losses of one process, whatever the ranks' number, and a clear end where one is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from several_ranks import on_ranks
from small_runs import (
    ROOT,
    Child,
    Undisturbed,
    count_rows,
    flags,
    killed,
    outcome,
    ranks_of,
    small,
    start,
    wait_for_rows,
)
from torch import nn

from benchmarks import scaling
from ngpt.command import main
from ngpt.config import RunConfig
from ngpt.doctor import examine, runs_in
from ngpt.errors import InputError, exit_code_of
from ngpt.files import locked
from ngpt.flags import to_flags
from ngpt.kernels import dense
from ngpt.model import build_model
from ngpt.model.roles import ParameterSpec, Role, parameter_specs
from ngpt.optim import muon
from ngpt.optim.build import build_optimizers
from ngpt.optim.sharded import local_of
from ngpt.presets import resolve
from ngpt.ranks import Ranks, process_group
from ngpt.training.record import CHECKPOINT, read_metrics, read_record
from ngpt.training.sharding import FullyShardedParameters, ShardedOptimizerState, owners

TOLERANCE = 1e-6
"""Relative, of losses in float32: ranks add the same numbers in another order."""

# a product near zero may change its sign with the order of a sum; a small decay keeps that below the tolerance
STEPS: dict[str, dict[str, Any]] = {
    "linear": {},
    "geodesic lr": {"geodesic_muon": "lr", "momentum_transport": "parallel"},
    "geodesic lr-norm": {"geodesic_muon": "lr-norm", "tangent": "before"},
    "normuon, cautious decay": {"normuon": "short-axis", "weight_decay": 0.01, "cautious_wd": True},
    "adam": {"optimizer": "adam"},
    "ngpt": {"arch": "ngpt"},
    "gpt": {"arch": "gpt", "lr": 0.005, "aux_lr": 0.002},
    "clipped, scheduled": {"grad_clip": 0.05, "schedule": "cosine", "warmup_steps": 3},
}
QUICK = [
    ("clipped, scheduled", 2, "zero1"), ("geodesic lr", 4, "zero1"),
    ("linear", 2, "fsdp"), ("normuon, cautious decay", 4, "fsdp"),
]  # fmt: skip


def thirty(data: str, **fields: Any) -> RunConfig:
    """Thirty steps of two layers: 14 hidden matrices, which 4 ranks cannot divide equally.

    Validations come at other steps than projections, which would leave nothing to restore. The logit scale starts at 1:
    from sqrt(d) on, one process whose initial weights are rounded otherwise is itself off by several TOLERANCE.
    """
    scaled = {"logit_scale_init": 1.0} if fields.get("arch", "ngpt") in ("ngpt", "gated-ngpt") else {}
    return small(data, **({"n_layer": 2, "steps": 30, "eval_every": 7, "batch_size": 12} | scaled | fields))


def same_losses(folder: Path, expected: tuple[Any, ...]) -> None:
    """As in an undisturbed run of one process: step for step, telemetry at the same steps."""
    found, rows = read_metrics(folder), expected[-1]
    assert [row["step"] for row in found] == [row["step"] for row in rows]
    for row, other in zip(found, rows, strict=True):
        assert set(other) <= set(row)
        turned = ("rotation_hidden_rad", "rotation_spread_head")
        for name in ("loss", "val_loss", "grad_norm", "logit_scale_mean", *turned):
            assert name not in other or row[name] == pytest.approx(other[name], rel=10 * TOLERANCE), (row, other)
        for name in ("loss", "val_loss"):
            assert name not in other or row[name] == pytest.approx(other[name], rel=TOLERANCE), (row, other)


def ended(children: list[Child], seconds: float = 60) -> None:
    for child in children:
        assert child.exit_code(seconds) == 0, child.errors.read_text()


def only(out: Path) -> Path:
    (folder,) = runs_in(out)
    assert examine(folder)[1:] == ([], [])
    return folder


@pytest.mark.parametrize(
    ("name", "count", "parallel"),
    [
        pytest.param(name, count, parallel, marks=[] if (name, count, parallel) in QUICK else pytest.mark.slow)
        for name in STEPS for count in (2, 3, 4) for parallel in ("zero1", "fsdp")
    ],
)  # fmt: skip
def test_any_number_of_ranks_has_the_losses_of_one_process(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int, parallel: str
) -> None:
    """By PyTorch's products: oneDNN's round a part of a batch differently, and cautious decay turns that into steps."""
    config = thirty(data, **STEPS[name])
    monkeypatch.setattr(dense, "BY_ONEDNN", False)
    expected = outcome(start(config, tmp_path / "one process")[0])
    arguments = flags(config, tmp_path / "runs", "--parallel", parallel)
    ended(ranks_of(arguments, tmp_path / "errors", count, PLAIN_PRODUCTS=1))
    same_losses(only(tmp_path / "runs"), expected)
    record = read_record(only(tmp_path / "runs"))
    assert (record.ranks, record.status) == (count, "done")
    assert record.engine == f"eager, {count} ranks, {parallel}"


def test_one_rank_is_one_process_to_the_bit(data: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    config = thirty(data)
    ended(ranks_of(flags(config, tmp_path / "runs"), tmp_path / "errors", 1))
    assert outcome(only(tmp_path / "runs")) == undisturbed(config)


@pytest.mark.parametrize("dim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_shard_may_end_inside_a_unit_vector(data: str, tmp_path: Path, undisturbed: Undisturbed, dim: int) -> None:
    """Of a block's matrices five have unit rows and two unit columns: each cut goes through some."""
    config = thirty(data, **STEPS["geodesic lr-norm"])
    arguments = flags(config, tmp_path / "runs", "--parallel", "fsdp")
    ended(ranks_of(arguments, tmp_path / "errors", 2, SHARDED_DIM=dim))
    same_losses(only(tmp_path / "runs"), undisturbed(config))


@pytest.mark.parametrize("parallel", ["zero1", pytest.param("fsdp", marks=pytest.mark.slow)])
@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_others_and_the_run_resumes_on_any_number(
    data: str, tmp_path: Path, undisturbed: Undisturbed, victim: int, parallel: str
) -> None:
    config = thirty(data)
    arguments = flags(config, tmp_path / "runs", "--resume", "--parallel", parallel)
    for count, rows in ((2, 7), (4, 14)):
        children = ranks_of(arguments, tmp_path / "errors", count)
        wait_for_rows(tmp_path / "runs", rows)
        os.kill(children[victim].process.pid or 0, signal.SIGKILL)
        for child in children:
            assert child.exit_code() == (-signal.SIGKILL if child is children[victim] else 2)
        for child in (child for child in children if child is not children[victim]):
            line = child.errors.read_text().splitlines()[-1]
            assert "another rank has ended or cannot be reached" in line and "/" not in line
        (folder,) = runs_in(tmp_path / "runs")
        assert (folder / CHECKPOINT).exists() and not examine(folder)[1]
        assert read_record(folder).status == ("killed" if victim else "running")
        assert 3 <= count_rows(tmp_path / "runs") < 30
    start(config, tmp_path / "runs", resume=True)
    same_losses(only(tmp_path / "runs"), undisturbed(config))


@pytest.mark.parametrize("parallel", [pytest.param("zero1", marks=pytest.mark.slow), "fsdp"])
def test_what_one_process_left_is_continued_by_several_ranks(
    data: str, tmp_path: Path, undisturbed: Undisturbed, parallel: str
) -> None:
    """With --nan-fallback, so that the checkpoint holds the weights to fall back to as well."""
    config = thirty(data, nan_fallback="normuon")
    killed(config, tmp_path / "runs")
    arguments = flags(config, tmp_path / "runs", "--resume", "--parallel", parallel)
    ended(ranks_of(arguments, tmp_path / "errors", 2))
    same_losses(only(tmp_path / "runs"), undisturbed(config))


@pytest.mark.parametrize("parallel", ["zero1", "fsdp"])
def test_normuon_takes_over_on_all_ranks(data: str, tmp_path: Path, parallel: str) -> None:
    """Step 5 breaks the weights that each rank moves; two steps later all go on from the weights before it."""
    config = thirty(data, nan_fallback="normuon", max_skipped_in_a_row=2)
    alone = Child(flags(config, tmp_path / "alone"), tmp_path / "errors", environment={"BROKEN_AT": "5"})
    ended([alone])
    arguments = flags(config, tmp_path / "runs", "--parallel", parallel)
    ended(ranks_of(arguments, tmp_path / "ranks", 2, BROKEN_AT=5))
    same_losses(only(tmp_path / "runs"), outcome(only(tmp_path / "alone")))
    assert read_record(only(tmp_path / "runs")).fell_back_at_step == 7


@pytest.mark.parametrize("parallel", ["zero1", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_time_budget_ends_all_ranks_at_one_step(data: str, tmp_path: Path, parallel: str) -> None:
    config = small(data, time_budget_seconds=0.5)
    ended(ranks_of(flags(config, tmp_path / "runs", "--parallel", parallel), tmp_path / "errors", 2))
    record = read_record(only(tmp_path / "runs"))
    assert record.status == "done" and record.train_seconds == pytest.approx(0.5, abs=0.5 / 2)


@pytest.mark.parametrize("flag", ["--save-every", "--parallel", "--resume"])
def test_ranks_with_different_flags_are_refused(data: str, tmp_path: Path, flag: str) -> None:
    """They would wait for each other for ever; and nothing is touched."""
    folder, record = start(thirty(data, steps=3), tmp_path / "runs")
    common = [*to_flags(thirty(data, steps=3)), "--out", str(tmp_path / "runs"), "--no-progress"]
    other = {"--save-every": ["--save-every", "5"], "--parallel": ["--parallel", "fsdp"], "--resume": ["--resume"]}
    for child in ranks_of(common, tmp_path / "errors", 2, of_rank=[[], other[flag]]):
        assert child.exit_code() == 2 and "the ranks differ in flags" in child.errors.read_text()
    assert only(tmp_path / "runs") == folder and read_record(folder) == record


def test_a_run_that_others_are_working_on_is_left_by_all_ranks(data: str, tmp_path: Path) -> None:
    config = thirty(data, steps=3)
    folder, _ = start(config, tmp_path / "runs")
    with locked(tmp_path / "runs" / ".locks" / folder.name):
        for child in ranks_of(flags(config, tmp_path / "runs"), tmp_path / "errors", 2):
            assert child.exit_code() == 2 and "another process is working on this run" in child.errors.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["zero1", "fsdp"])
def test_several_ranks_start_from_the_weights_of_one_process(
    data: str, tmp_path: Path, undisturbed: Undisturbed, parallel: str
) -> None:
    source, _ = start(thirty(data), tmp_path / "source")
    config = thirty(data, init_from=str(source), seed=1)
    ended(ranks_of(flags(config, tmp_path / "runs", "--parallel", parallel), tmp_path / "errors", 3))
    same_losses(only(tmp_path / "runs"), undisturbed(config))


def test_a_signal_to_one_rank_stops_all_after_their_step(data: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    config = thirty(data)
    arguments = flags(config, tmp_path / "runs", "--resume")
    children = ranks_of(arguments, tmp_path / "errors", 2)
    wait_for_rows(tmp_path / "runs", 5)
    os.kill(children[1].process.pid or 0, signal.SIGTERM)
    assert [child.exit_code() for child in children] == [130, 130], [c.errors.read_text() for c in children]
    (folder,) = runs_in(tmp_path / "runs")
    assert read_record(folder).status == "killed" and 5 <= read_record(folder).steps < 30
    ended(ranks_of(arguments, tmp_path / "errors", 2))
    same_losses(only(tmp_path / "runs"), undisturbed(config))


def test_shards_of_one_process_are_refused(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: main(flags(thirty(data), tmp_path / "runs", "--parallel", "fsdp"))) == 2
    assert capsys.readouterr().err.startswith("error: --parallel fsdp has no effect in a single process")
    assert not (tmp_path / "runs").exists()


def test_a_batch_that_cannot_be_shared_is_refused_by_every_rank(data: str, tmp_path: Path) -> None:
    for child in ranks_of(flags(thirty(data, batch_size=5), tmp_path / "runs"), tmp_path / "errors", 2):
        assert child.exit_code() == 2 and "--batch-size 5 cannot be split equally among 2" in child.errors.read_text()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("launches", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_the_command_of_the_readme(data: str, tmp_path: Path, undisturbed: Undisturbed, launches: int) -> None:
    """Often enough to see a process that dies at its very end."""
    config = thirty(data)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "train_architectural.py"]
    for launch in range(launches):
        out = tmp_path / f"runs{launch}"
        result = subprocess.run(
            [*command, *flags(config, out)], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr
        assert Path(result.stdout.splitlines()[-1]) == only(out) and result.stdout.count("validation:") == 1
        same_losses(only(out), undisturbed(config))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="torch.compile needs a compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, where it compiles
@pytest.mark.parametrize("parallel", ["zero1", "fsdp"])
def test_compiled_ranks(data: str, tmp_path: Path, undisturbed: Undisturbed, parallel: str) -> None:
    config = thirty(data, compile=True)
    ended(ranks_of(flags(config, tmp_path / "runs", "--parallel", parallel), tmp_path / "errors", 2), seconds=300)
    same_losses(only(tmp_path / "runs"), undisturbed(config))


def half_of_the_matrices() -> None:
    """A loss that does not depend on one of them: its gradient is zero on its owner, and nobody waits for it."""
    ranks = Ranks(index=dist.get_rank(), count=dist.get_world_size())
    torch.manual_seed(0)
    model = nn.ParameterDict({name: nn.Parameter(torch.randn(4, 4)) for name in ("first", "second", "third")})
    model["scale"] = nn.Parameter(torch.ones(()))
    specs = {name: ParameterSpec(Role.HIDDEN if p.ndim else Role.SCALAR) for name, p in model.named_parameters()}
    sharding = ShardedOptimizerState(model, specs, ranks)
    x = torch.full((4,), ranks.index + 1.0)
    gradients, outcome = sharding.collect(_backward(model["first"] @ x * model["scale"] + model["third"] @ x))
    assert set(sharding.owned) >= {"scale"} and len(gradients) == len(sharding.owned)
    mean = torch.full((4, 4), (ranks.count + 1) / 2)
    for name, expected in {"first": mean, "second": 0 * mean, "third": mean}.items():
        if name in sharding.owned:
            torch.testing.assert_close(sharding.owned[name].grad, expected)
    slope = (model["first"].detach().sum() * (ranks.count + 1) / 2).square()
    assert outcome[1].item() == pytest.approx((2 * mean.square().sum() + slope).sqrt().item(), rel=1e-5)


def _backward(y: torch.Tensor) -> torch.Tensor:
    loss = y.sum()
    loss.backward()
    return loss


def test_a_matrix_that_the_loss_does_not_depend_on(tmp_path: Path) -> None:
    on_ranks(half_of_the_matrices, 2, tmp_path)


@pytest.mark.slow
def test_torchrun_begins_again_from_the_checkpoint(data: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    """By the command of docs/scaling.md; the killed rank is any of torchrun's children."""
    config = thirty(data)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=3", "--nproc_per_node=2"]
    arguments = ["train_architectural.py", *flags(config, tmp_path / "runs", "--resume")]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=output, stderr=output)
        wait_for_rows(tmp_path / "runs", 7)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert process.wait(100) == 0, (tmp_path / "output").read_text()
    same_losses(only(tmp_path / "runs"), undisturbed(config))


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parallel", "options"),
    [
        ("zero1", {}), ("fsdp", {"polar_dtype": "bfloat16"}),
        ("fsdp", {"geodesic_muon": "lr-norm", "normuon": "short-axis", "momentum_transport": "parallel"}),
    ],
)  # fmt: skip
def test_as_many_bytes_are_sent_as_the_formulas_say(data: str, tmp_path: Path, parallel: Any, options: Any) -> None:
    """12 steps; 15 times weights from owners, as also before the first and around the only validation; its passes."""
    config = small(data, n_layer=2, steps=12, eval_every=100, telemetry_every=0, eval_tokens=4096, **options)
    arguments = flags(config, tmp_path / "runs", "--parallel", parallel, "--save-every", "100")
    ended(ranks_of(arguments, tmp_path / "errors", 2, COUNTED=tmp_path / "sent"))
    found: dict[str, float] = defaultdict(float)
    for rank in range(2):
        for kind, sent in json.loads((tmp_path / f"sent{rank}.json").read_text()).items():
            found[kind] += sent / 2
    of = scaling.Parameters.of(config, 257)
    expected = scaling.payload_bytes(of, 2, parallel)
    everywhere = 12 * expected["vectors, norms and loss"]
    if parallel == "zero1":
        assert found["all_reduce"] == pytest.approx(everywhere, rel=1e-12)
        assert found["reduce"] == pytest.approx(12 * expected["gradients to owners"], rel=1e-12)
        assert found["broadcast"] == pytest.approx(15 * expected["weights from owners"], rel=1e-12)
    else:
        projected = 0 if options.get("geodesic_muon") else 3  # steps 5 and 10, and at the end
        assert found["all_reduce"] == pytest.approx(everywhere + projected * scaling.projection_bytes(of, 2), rel=1e-12)
        both_ways = expected["input of the orthogonalizer, to owners"] + expected["updates, to shards"]
        assert found["all_to_all"] == pytest.approx(12 * both_ways, rel=1e-12)
        assert found["reduce_scatter"] == pytest.approx(12 * expected["gradients onto shards"], rel=1e-12)
        evaluated = sum(of.padded(2, inside=place) for place in (True, False)) * scaling.WORD / 2
        assert found["all_gather"] == pytest.approx(12 * expected["weights for the passes"] + evaluated, rel=1e-12)


# --- who owns what ---------------------------------------------------------------------------------------------------


def model_of(preset: str, **fields: Any) -> tuple[nn.Module, dict[str, ParameterSpec], RunConfig]:
    config = resolve(preset, **fields)
    with torch.device("meta"):
        model = build_model(config.model, 50304 if preset == "155m" else 257, seed=0)
    return model, parameter_specs(model), config


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("preset", ["tiny", "155m"])
def test_ranks_split_the_orthogonalization_equally(preset: str, count: int) -> None:
    """No rank has more than the mean and one matrix; at 155m that is 8% for 8 ranks."""
    model, specs, _ = model_of(preset)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    owner = owners(shapes, specs, count)
    work = [0] * count
    hidden = [name for name in shapes if specs[name].role == Role.HIDDEN]
    for name in hidden:
        m, n = shapes[name]
        work[owner[name]] += m * n * min(m, n)
    largest = max(m * n * min(m, n) for m, n in (shapes[name] for name in hidden))
    assert set(owner) == set(shapes) and max(work) <= sum(work) / count + largest * (1 - 1 / count)
    if preset == "155m" and count == 8:
        assert max(work) / (sum(work) / count) < 1.08
    assert owner == owners(dict(shapes), specs, count)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_each_rank_orthogonalizes_its_part_and_keeps_only_its_state(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Counted in a step of each rank's optimizers; over the ranks every matrix once."""
    orthogonalize, counted = muon.polar.orthogonalize, [0] * count
    names, states = list[str](), list[int]()
    config = resolve("tiny", n_layer=2)
    for rank in range(count):
        model = build_model(config.model, 257, seed=0)
        specs = parameter_specs(model)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        owner = owners(shapes, specs, count)
        owned = {name: p for name, p in model.named_parameters() if p.ndim != 2 or owner[name] == rank}

        def count_and_do(X: torch.Tensor, rank: int = rank, **options: Any) -> torch.Tensor:
            counted[rank] += X.numel() * min(X.shape[-2:])
            return orthogonalize(X, **options)

        monkeypatch.setattr(muon.polar, "orthogonalize", count_and_do)
        optimizers = build_optimizers(model, config, owned)
        for parameter in owned.values():
            parameter.grad = torch.randn_like(parameter)
        optimizers.move()
        hidden = [name for name in owned if specs[name].role == Role.HIDDEN]
        others = [name for name in owned if specs[name].role != Role.HIDDEN]
        state = [
            value
            for optimizer in optimizers.all.values()
            for of in optimizer.state.values()
            for value in of.values()
        ]  # fmt: skip
        elements = {name: owned[name].numel() for name in owned}
        expected = sum(elements[name] for name in hidden) + sum(2 * elements[name] + 1 for name in others)
        assert sum(value.numel() for value in state) == expected
        states.append(expected - len(others))
        names += hidden
    assert sorted(names) == sorted(name for name in specs if specs[name].role == Role.HIDDEN)
    predicted = scaling.memory_bytes(scaling.Parameters.of(config, 257), count, "zero1")["optimizer state"]
    assert max(states) * scaling.WORD == predicted
    assert max(counted) <= 1.25 * sum(counted) / count


def state_in_shards() -> None:
    """After a step of a model in shards, each rank keeps what the formula says, and a loss of the whole batch."""
    ranks = Ranks(index=dist.get_rank(), count=dist.get_world_size())
    config, vocabulary = resolve("tiny", n_layer=2), 256  # rows that the ranks divide
    model = build_model(config.model, vocabulary, seed=0)
    specs = parameter_specs(model)
    sharding = FullyShardedParameters(model, specs, ranks, torch.device("cpu"))
    optimizers = build_optimizers(model, config, sharding.owned)
    _, outcome = sharding.collect(_backward(model(torch.arange(8).reshape(2, 4) + ranks.index) / 1000))
    assert outcome.isfinite().all()
    optimizers.move()
    kept, whole = 0, 0
    for optimizer in optimizers.all.values():
        for state in optimizer.state.values():
            values = [value for key, value in state.items() if key != "step"]
            kept += sum(local_of(value).numel() for value in values)
            whole += sum(value.numel() for value in values)
    predicted = scaling.memory_bytes(scaling.Parameters.of(config, vocabulary), ranks.count, "fsdp")
    assert kept * scaling.WORD == predicted["optimizer state, sharded"] and kept < 0.6 * whole


def test_each_rank_keeps_as_much_state_of_shards_as_the_formula_says(tmp_path: Path) -> None:
    on_ranks(state_in_shards, 2, tmp_path)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_a_rank_without_a_matrix_steps_vectors_and_scalars(optimizer: str) -> None:
    config = resolve("tiny", n_layer=1, optimizer=optimizer)
    model = build_model(config.model, 257, seed=0)
    owned = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim != 2}
    optimizers = build_optimizers(model, config, owned)
    before = {name: parameter.detach().clone() for name, parameter in owned.items()}
    for parameter in owned.values():
        parameter.grad = torch.ones_like(parameter)
    optimizers.schedule(step=0, progress=0.0)
    optimizers.move()
    optimizers.projection.project()
    assert not optimizers.hidden.state and all((before[name] != owned[name]).all() for name in owned)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["zero1", "fsdp"])
def test_more_ranks_than_hidden_matrices(data: str, tmp_path: Path, undisturbed: Undisturbed, parallel: str) -> None:
    config = thirty(data, n_layer=1, batch_size=8)
    ended(ranks_of(flags(config, tmp_path / "runs", "--parallel", parallel), tmp_path / "errors", 8))
    same_losses(only(tmp_path / "runs"), undisturbed(config))


WHOLE = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize("wrong", [
    {"RANK": None}, {"MASTER_ADDR": None}, {"MASTER_PORT": None}, {"MASTER_PORT": "http"}, {"RANK": "2"},
    {"RANK": "-1"}, {"WORLD_SIZE": "two"}, {"WORLD_SIZE": ""}, {"LOCAL_RANK": "x"}, {"LOCAL_WORLD_SIZE": "1.5"},
], ids=str)  # fmt: skip
def test_half_an_environment_of_torchrun_is_refused(
    wrong: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*WHOLE, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (WHOLE | wrong).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=next(iter(wrong))), process_group():
        pass
