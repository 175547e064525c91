"""The benchmark of batch sizes: what it concludes from given losses, and both parts at a toy size."""

from pathlib import Path

import pytest

from benchmarks import batch_size
from benchmarks.batch_size import judge, runs_of
from benchmarks.tables import batch_tables
from ngpt.errors import InputError
from ngpt.files import read_json
from ngpt.presets import resolve

SMALL = "--n-layer 1 --n-embd 24 --n-head 2 --seq-len 16 --eval-tokens 64 --data {} --schedule linear"


def test_the_largest_tolerated_batch_by_hand() -> None:
    """At batch 8 a seed of the lowest rate diverged; 32 is good by luck, after a gap."""
    rows, largest = judge({
        (4, 0.1): [2.0, 2.2], (4, 0.2): [1.9, 2.1], (4, 0.4): [2.0, 2.1],
        (8, 0.1): [None, 1.0], (8, 0.2): [2.1, 2.1], (8, 0.4): [2.0, 2.03],
        (16, 0.1): [2.5, 2.5], (16, 0.2): [2.02, 2.02], (16, 0.4): [2.4, 2.4],
        (32, 0.1): [2.5, 2.5], (32, 0.2): [2.0, 2.0], (32, 0.4): [2.4, 2.4],
        (64, 0.1): [None, None], (64, 0.2): [None, 1.0], (64, 0.4): [1.0, None],
    })  # fmt: skip
    assert largest == 8
    assert [row["lr"] for row in rows] == [0.2, 0.4, 0.2, 0.2, None]
    assert [row["at_edge"] for row in rows] == [False, True, False, False, False]
    assert [row["above_best"] for row in rows] == [pytest.approx(x) for x in (0.0, 0.015, 0.02, 0.0)] + [None]
    assert [row["tolerated"] for row in rows] == [True, True, False, True, False]


def test_a_smaller_batch_that_is_worse_does_not_matter() -> None:
    assert judge({(4, 0.1): [2.1], (8, 0.1): [2.0], (16, 0.1): [2.01]})[1] == 16


def test_nothing_is_concluded_where_all_diverged() -> None:
    assert judge({(4, 0.1): [None], (8, 0.1): [2.0]})[1] == 8
    with pytest.raises(InputError, match="every rate of every batch diverged"):
        judge({(4, 0.1): [None], (8, 0.1): [None]})


def test_all_runs_see_the_same_tokens() -> None:
    config = resolve("rung-1")
    runs = runs_of(config, [2, 8, 32], [0.01, 0.02], 512_000, 2)
    assert len(runs) == 12 and len({run.seed for run in runs.values()}) == 2
    for (size, lr, _), run in runs.items():
        assert run.train.steps * size * 128 == 512_000 and run.train.batch_size == size and run.optim.lr == lr
        assert run.train.eval_every == run.train.steps and run.optim.schedule == "linear"


def test_both_parts_at_a_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finished run is found again; the tables hold what was saved."""
    monkeypatch.setattr(batch_size, "SLICE", 0.01)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} green bottles on a wall of {i * 5 % 11}\n" for i in range(400)))
    path = tmp_path / "batch_size_toy.json"
    arguments = [
        "--flags", SMALL.format(text), "--preset", "tiny", "--batches", "2", "4", "--contexts", "8", "16",
        "--seconds", "0.03", "--rates", "0.5", "1", "--tokens", "256", "--seeds", "2", "--jobs", "1",
        "--out", str(tmp_path / "runs"), "--json", str(path),
    ]  # fmt: skip
    assert batch_size.main(arguments) == 0
    found = read_json(path)
    assert [(row["batch_size"], row["seq_len"]) for row in found["throughput"]] == [(2, 8), (2, 16), (4, 8), (4, 16)]
    assert all(len(row["slices"]) == 3 and row["tokens_per_second"] > 100 for row in found["throughput"])
    loss = found["loss"]
    assert (loss["tokens"], loss["seq_len"], [row["batch_size"] for row in loss["rows"]]) == (256, 16, [2, 4])
    assert min(row["above_best"] for row in loss["rows"]) == 0 and loss["largest_tolerated"] in (2, 4)
    records = sorted((tmp_path / "runs").glob("*/record.json"))
    assert len(records) == 8 and {read_json(record)["steps"] for record in records} == {4, 8}

    kept = [record.stat().st_mtime_ns for record in records]
    assert batch_size.main([*arguments, "--part", "loss"]) == 0
    assert [record.stat().st_mtime_ns for record in records] == kept and read_json(path)["loss"] == loss
    table = batch_tables(tmp_path)
    assert "throughput" not in read_json(path) and f"**{loss['largest_tolerated']}**" in table
    assert batch_tables(tmp_path / "runs").startswith("No preset's batch size")
