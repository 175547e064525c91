"""The benchmarks that wait for a GPU, as far as a CPU can take them."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu, kernels, measure, tables, training_throughput
from ngpt.config import Runtime
from ngpt.files import read_json, write_json
from ngpt.presets import resolve
from ngpt.training import trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SIDE", {"cpu": 64})
    monkeypatch.setattr(measure, "COPIED", {"cpu": 2**20})
    monkeypatch.setattr(kernels, "PRODUCTS", {"cpu": [(2, 20, 20)]})
    monkeypatch.setattr(kernels, "MATRICES", {"cpu": [(12, 8), (8, 12)]})
    monkeypatch.setattr(kernels, "ACTIVATIONS", {"cpu": (9, 8)})


def test_every_kernel_is_checked_and_timed(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    path = tmp_path / "kernels.json"
    assert kernels.main(["--device", "cpu", "--rounds", "2", "--json", str(path)]) == 0
    result = read_json(path)
    found = {row["kernel"] for row in result["rows"]}
    vectors = {f"{name}, {along}" for name in ("project_", "geodesic_move_") for along in ("rows", "columns")}
    steps = {"momentum_step_", "residual_step", "residual_step and its gradients"}
    assert found == {"xxt", "ba_plus_cAA"} | vectors | steps and result["interpreted"]
    for row in result["rows"]:
        assert set(row["errors"]) == {row["alternative"], "kernel"} and max(row["errors"].values()) < 1e-2
        assert row["floor_seconds"] > 0 and row["times_faster"][row["alternative"]]["median"] == 1.0


def test_a_slow_first_product_does_not_make_the_rate_that_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where it loads libraries."""
    monkeypatch.setattr(measure, "SIDE", {"cpu": 512})
    multiplied: list[int] = []
    seconds_of, linear = measure.seconds_of, measure.dense.linear
    slow = iter([10.0])
    monkeypatch.setattr(measure, "seconds_of", lambda *given: seconds_of(*given) + next(slow, 0.0))
    monkeypatch.setattr(measure.dense, "linear", lambda A, B: multiplied.append(len(A)) or linear(A, B))
    assert measure.matmul_rate(torch.float32, CPU, threads=1) > 0 and set(multiplied) == {512}


def test_a_wrong_kernel_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    symmetric = pytest.importorskip("ngpt.kernels.symmetric")
    clean = symmetric.xxt
    monkeypatch.setattr(symmetric, "xxt", lambda A, **options: clean(A, **options) * 1.05)
    with pytest.raises(AssertionError, match="xxt of .* is wrong"):
        kernels.main(["--device", "cpu", "--rounds", "2", "--json", str(tmp_path / "kernels.json")])


def test_the_benchmarks_steps_are_the_trainers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same losses as a run's on the same batches, to the bit."""
    config = resolve("tiny", n_layer=1, n_embd=24, n_head=2, seq_len=16, batch_size=4, steps=6, schedule="constant")
    losses: list[float] = []
    _, record = trainer.train(
        config, Runtime(out=tmp_path, progress=False, threads=1), lambda _, loss: losses.append(loss)
    )
    monkeypatch.setattr(training_throughput, "Feed", lambda batches, device: FEEDS[-1])
    clean, FEEDS = trainer.Feed, []  # noqa: N806
    monkeypatch.setattr(trainer, "Feed", lambda batches, device: FEEDS.append(clean(batches, device)) or FEEDS[-1])
    trainer.train(config, Runtime(out=tmp_path / "again", progress=False, threads=1))
    made = training_throughput.Arrangement(config, 257, CPU, graphs=False)
    for _ in range(3):
        made.step()
    assert made.losses == losses and record.steps == 6


def test_rows_of_throughput_add_up() -> None:
    config = resolve("tiny", n_layer=1, n_embd=24, n_head=2, seq_len=16, batch_size=4)
    rates = {"float32": 1e9}
    (row,) = training_throughput.timed({"eager": (config, False)}, 257, CPU, rates, 8)
    assert len(row["seconds"]) == 14, "twice the period of projection"
    assert row["tokens_a_step"] == 64 and row["engine"] == "eager"
    assert sum(row["share_of_time"].values()) == pytest.approx(1.0)
    assert row["tokens_per_second"] == pytest.approx(64 / np.median(row["seconds"]))
    F = config.model.mlp_hidden  # noqa: N806
    matrices = 4 * 24 * 24 + 3 * 24 * F + 257 * 24
    iteration = 4 * 2 * 24**2 * 3 * 24 + 3 * 2 * 24**2 * (2 * F + 24)
    assert row["flops"] == 6 * 64 * matrices + 12 * 64 * 24 * 16 + config.optim.ns_steps * iteration
    assert row["floor_seconds"] == pytest.approx(row["flops"] / 1e9)


def test_a_profile_lists_the_kernels_of_whole_periods() -> None:
    config = resolve("tiny", n_layer=1, n_embd=24, n_head=2, seq_len=16, batch_size=4)
    (row,) = training_throughput.timed({"eager": (config, False)}, 257, CPU, {"float32": 1e9}, 2, profiled=True)
    kernels = {kernel["name"]: kernel for kernel in row["kernels"]}
    assert kernels["Optimizer.step#SimpleMuon.step"]["calls"] == 1
    shares = [kernel["share"] for kernel in row["kernels"]]
    assert shares == sorted(shares, reverse=True) and len(shares) == training_throughput.MOST_KERNELS
    assert 0.8 < sum(shares) <= 1 and 0 < sum(k["milliseconds"] for k in kernels.values()) < 50 * row["milliseconds"]
    table = tables.profile_table(row)
    assert f"| `{row['kernels'][0]['name']}` | " in table and len(table.splitlines()) < 4 + len(shares)


def test_arrangements_begin_with_what_a_gpu_is_to_run() -> None:
    options = argparse.Namespace(batch_size=256, preset="155m")
    found = training_throughput.arrangements(options, torch.device("cuda"))
    assert list(found) == [
        "muon, compiled, CUDA graphs", "muon, compiled", "muon, eager, CUDA graphs", "muon, eager",
        "adam, compiled, CUDA graphs",
    ]  # fmt: skip
    assert training_throughput.precisions(found) == ["bfloat16"], "each needs a rate for its floor"
    config, graphs = found["muon, compiled, CUDA graphs"]
    assert graphs and config.train.compile and config.train.batch_size * config.model.seq_len == 2**15


# --- all in one call -------------------------------------------------------------------------------------------------


def results(product: float, step: float, tokens: float, share: float) -> gpu.Results:
    gains = {"cuBLAS": {"median": 1.0}, "kernel": {"median": product}, "64x64w4s4": {"median": product / 2}}
    row = {"alternative": "cuBLAS", "times_faster": gains, "share_of_floor": dict.fromkeys(gains, 0.5)}
    row |= {"tiling": "128x64w8s3", "in_training": "kernel"}
    small_row = {**row, "times_faster": {"cuBLAS": {"median": 1.0}, "kernel": {"median": 0.1}}}
    products = [
        {**(row if size == 2048 else small_row), "kernel": kernel, "shape": [1, size, size]}
        for kernel in ("xxt", "ba_plus_cAA")
        for size in (1024, 2048)
    ]
    racer = {"width": 768, "milliseconds": 3.0, "share_of_floor": 0.7}
    raced = [
        racer | {"contender": "torch.optim.Muon", "times_faster": {"median": 1.0}},
        racer | {"contender": "SimpleMuon", "times_faster": {"median": step / 2}},
        racer | {"contender": "SimpleMuon, CUDA graph", "times_faster": {"median": step}},
        racer | {"contender": "SimpleMuon, other mathematics", "times_faster": {"median": 99.0}},
        racer | {"width": 243, "contender": "SimpleMuon", "times_faster": {"median": 99.0}},
    ]
    mathematics = {row["contender"]: "bfloat16" for row in raced} | {"SimpleMuon, other mathematics": "other"}
    trained = {
        "arrangement": "muon", "share_of_floor": 0.6, "share_of_time": {"gradients": 1 - share, "move": share},
        "part_milliseconds": {"move": 3.0}, "tokens_per_second": 2 * tokens,
    }  # fmt: skip
    return {
        "kernels": {"rows": products},
        "optimizer_step": {"rows": raced, "mathematics": mathematics},
        "training_throughput": {"rows": [trained], "whole_run": {"tokens_per_second": tokens}},
    }


def test_the_table_says_what_holds() -> None:
    lines, all_hold = gpu.table(results(1.5, 5.0, 400_000, 0.1))
    assert all_hold and len(lines) == 1 + len(gpu.CLAIMS)
    assert "1x2048x2048, tiling 128x64w8s3: floor" in lines[1] and "SimpleMuon, CUDA graph at 768 wide" in lines[3]


@pytest.mark.parametrize(
    "figures", [(1.49, 5.0, 4e5, 0.1), (1.5, 4.9, 4e5, 0.1), (1.5, 5.0, 399_999, 0.1), (1.5, 5.0, 4e5, 0.11)]
)
def test_a_missed_target_is_no_success(figures: tuple[float, float, float, float]) -> None:
    assert not gpu.table(results(*figures))[1]


def test_what_was_not_measured_does_not_hold() -> None:
    found = results(1.5, 5.0, 4e5, 0.1)
    del found["kernels"]
    lines, all_hold = gpu.table(found)
    assert not all_hold and sum("not measured" in line for line in lines) == 2


def test_steps_stand_for_a_whole_run_that_was_stopped_and_that_is_said() -> None:
    found = results(1.5, 5.0, 4e5, 0.1)
    assert gpu.throughput(found["training_throughput"])[0] == 4e5
    del found["training_throughput"]["whole_run"]
    lines, _ = gpu.table(found)
    assert "800,000  steps alone, no whole run; muon: floor 60%" in lines[4]


def test_parts_are_stopped_in_time_and_their_failure_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By parts that write a result, fail and never end."""
    scripts = tmp_path / "benchmarks"
    scripts.mkdir()
    write = "import shutil, sys; shutil.copy(sys.argv[0] + '.json', sys.argv[-1])"
    (scripts / "kernels.py").write_text(write)
    write_json(scripts / "kernels.py.json", results(1.5, 5.0, 4e5, 0.1)["kernels"])
    (scripts / "optimizer_step.py").write_text("import sys; sys.exit(3)")
    (scripts / "training_throughput.py").write_text("import time; time.sleep(100)")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "SECONDS", {"kernels": 60, "optimizer_step": 60, "training_throughput": 2})
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path / "out")]) == 1
    printed = capfd.readouterr().out
    assert "optimizer_step.py: exit code 3" in printed and "training_throughput.py: stopped after 2 s" in printed
    assert "1x2048x2048" in printed and printed.count("not measured") == 3


def test_no_result_of_a_cpu_is_kept_as_a_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--device", "cpu"])
    assert stopped.value.code == 2 and "give an --out" in capsys.readouterr().err
    assert sys.modules["benchmarks.gpu"].FOLDER.name == "results"


def whole_run_of(**fields: Any) -> dict[str, Any]:
    config = resolve("tiny", n_layer=1, n_embd=24, n_head=2, seq_len=16, batch_size=2, **fields)
    return training_throughput.whole_run(config, 257, threads=1)


@pytest.mark.parametrize("fields", [{}, {"data": "fineweb10b"}], ids=["text", "shards"])
def test_a_whole_run_is_a_runs_record(fields: dict[str, Any]) -> None:
    """GPT-2 tokens without the download: random shards."""
    found = whole_run_of(**fields)
    assert found["engine"] == "eager" and found["tokens_per_second"] > 0 and found["train_seconds"] > 0
