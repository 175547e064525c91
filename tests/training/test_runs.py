"""The table of runs: true states in every situation, sorting, CSV and JSON, and nothing written."""

import csv
import io
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import as_nobody, killed, open_up, small, start

from ngpt import runs
from ngpt.errors import exit_code_of
from ngpt.files import locked, read_json, write_json
from ngpt.ranks import SINGLE_PROCESS
from ngpt.training.folder import claim_run_folder
from ngpt.training.record import CHECKPOINT, read_record


@pytest.fixture(scope="module")
def made(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs with names and a killed one with its checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "runs"
    start(small(data, seed=2), out, name="Muon, seed 2")
    start(small(data, seed=0), out)
    killed(small(data, seed=1), out)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


def seed_of(folder: Path, seed: int) -> Path:
    return next(folder.glob(f"*-s{seed}"))


def listed(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert exit_code_of(lambda: runs.main([str(folder), "--json", *flags])) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert all(tuple(row) == runs.COLUMNS for row in rows)
    return rows


def row(folder: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return next(row for row in listed(folder, capsys) if row["id"].endswith(f"-s{seed}"))


def rerecorded(folder: Path, **changes: Any) -> None:
    content = {**read_json(folder / "record.json"), **changes}
    write_json(folder / "record.json", {name: value for name, value in content.items() if value is not None})


def test_the_figures_are_those_of_the_records(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, record = row(folder, 2, capsys), read_record(seed_of(folder, 2))
    assert done["name"] == "Muon, seed 2" and row(folder, 0, capsys)["name"] is None
    assert (done["state"], done["steps"], done["planned_steps"], done["lr"]) == ("done", 12, 12, 0.02)
    assert (done["final_loss"], done["tokens_per_second"]) == (record.final_val_loss, record.tokens_per_second)
    assert 0 < done["last_loss"] < 6 and 0 <= done["age"] < 3600 and done["message"] is None
    cut = row(folder, 1, capsys)
    assert (cut["state"], cut["steps"], cut["final_loss"]) == ("interrupted", 8, None) and cut["last_loss"] > 0


def test_a_run_in_progress_is_running_and_shows_what_it_has_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = seed_of(folder, 1)
    rerecorded(place, status="running", steps=0, message=None, tokens_per_second=None)
    with claim_run_folder(place, SINGLE_PROCESS, resume=True):
        found = row(folder, 1, capsys)
    assert (found["state"], found["steps"]) == ("running", 7) and found["tokens_per_second"] > 0
    assert row(folder, 1, capsys)["state"] == "interrupted", "its lock has gone"


@pytest.mark.parametrize(
    ("status", "checkpoint", "busy", "state"),
    [("running", True, True, "running"), ("killed", True, True, "running"), ("failed", True, True, "running"),
     ("running", True, False, "interrupted"), ("killed", True, False, "interrupted"),
     ("running", False, False, "killed"), ("killed", False, False, "killed"), ("running", False, True, "running"),
     ("failed", True, False, "failed"), ("failed", False, False, "failed"), ("diverged", False, False, "diverged"),
     ("diverged", False, True, "diverged"), ("done", False, True, "done"), ("done", False, False, "done")],
)  # fmt: skip
def test_the_state_is_true(
    folder: Path, status: str, checkpoint: bool, busy: bool, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = seed_of(folder, 1)
    rerecorded(place, status=status, message="why")
    if not checkpoint:
        (place / CHECKPOINT).unlink()
    with locked(folder / ".locks" / (place.name if busy else "another")):
        found = row(folder, 1, capsys)
    assert (found["state"], found["message"]) == (state, "why")


@pytest.mark.parametrize(
    ("name", "content"),
    [("record.json", b"{"), ("record.json", b"\xff"), ("record.json", None), ("metrics.jsonl", b"\xff\n{}\n\xff\n"),
     ("metrics.jsonl", b'{"step": 1}\n')],
)  # fmt: skip
def test_a_damaged_run_is_a_row_that_says_so(
    folder: Path, name: str, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = seed_of(folder, 0) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = row(folder, 0, capsys)
    assert found["state"] == "damaged" and name in found["message"] and row(folder, 2, capsys)["state"] == "done"
    assert runs.main([str(folder)]) == 0 and "damaged" in capsys.readouterr().out


def test_another_versions_configuration_is_no_damage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for config in ({}, {"train": None, "optim": [1], "model": {"seq_len": "x"}}):
        rerecorded(seed_of(folder, 1), config=config, tokens_per_second=None)
        found = row(folder, 1, capsys)
        assert (found["state"], found["lr"], found["planned_steps"]) == ("interrupted", None, None)
    rerecorded(seed_of(folder, 0), finished="yesterday")
    assert row(folder, 0, capsys)["message"].endswith("not a date: 'yesterday'")


def test_a_run_by_the_clock_shows_its_budget(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(small(data, time_budget_seconds=0.02), tmp_path)
    (found,) = listed(tmp_path, capsys)
    assert (found["planned_steps"], found["budget_seconds"]) == (None, 0.02)
    assert runs.main([str(tmp_path)]) == 0
    assert f"{found['steps']}/0.02 s" in capsys.readouterr().out


def test_rows_are_sorted_with_unknown_values_last(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(seed_of(folder, 0), folder / f"{seed_of(folder, 0).name}.1")
    losses = [row["final_loss"] for row in listed(folder, capsys)]
    assert losses[-1] is None and losses[:-1] == sorted(losses[:-1])
    twins = [row["id"] for row in listed(folder, capsys) if "-s0" in row["id"]]
    assert twins == sorted(twins), "equal losses by id"
    for column in runs.COLUMNS:
        values = [row[column] for row in listed(folder, capsys, "--sort", column) if row[column] is not None]
        assert column == "age" or values == sorted(values)
    assert [row["id"] for row in listed(folder, capsys, "--sort", "id")][0].endswith("-s0")


def test_table_and_csv_say_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(folder, capsys)
    assert runs.main([str(folder), "--csv"]) == 0
    cells = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for one, line in zip(rows, cells, strict=True):
        shown = {name: "" if value is None else str(value) for name, value in one.items() if name != "age"}
        assert shown == {name: value for name, value in line.items() if name != "age"}
    assert runs.main([str(folder)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == "id name state steps final_loss last_loss lr tokens_per_second age message".split()
    assert [line.split()[0] for line in lines] == [one["id"] for one in rows]
    assert f"{rows[0]['final_loss']:.4f}" in lines[0] and "8/12" in lines[-1] and "interrupted" in lines[-1]


def test_one_run_is_a_table_too(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    place = seed_of(folder, 1)
    monkeypatch.chdir(place)
    with locked(folder / ".locks" / place.name):
        for name in (place, Path(".")):
            assert [(row["id"], row["state"]) for row in listed(name, capsys)] == [(place.name, "running")]


def test_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def content() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}

    shutil.rmtree(folder / ".locks")
    before = content()
    listed(folder, capsys)
    assert content() == before


@pytest.mark.parametrize("wrong", [["nowhere"], ["empty"], ["file"], ["empty", "--sort", "x"], [], ["--csv", "--json"]])
def test_what_is_no_folder_of_runs_is_one_line(
    tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    try:
        code: Any = exit_code_of(lambda: runs.main(wrong))
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "") and re.fullmatch(r"error: .*\n", captured.err)


def test_an_age_is_the_time_since_the_end_or_the_last_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rerecorded(seed_of(folder, 0), finished="2020-01-01T00:00:00+00:00")
    assert row(folder, 0, capsys)["age"] == pytest.approx(time.time() - 1577836800, abs=60)
    for name in ("record.json", "metrics.jsonl"):
        os.utime(seed_of(folder, 1) / name, (time.time() - 7205, time.time() - 7205))
    assert row(folder, 1, capsys)["age"] == pytest.approx(7205, abs=60)
    seconds = (0, 119, 120, 7200.5, 1e6)
    assert [runs.duration(one) for one in seconds] == ["0 s", "119 s", "2 min", "2 h", "11 d"]


@pytest.mark.parametrize("closed", ["record.json", ""])
def test_what_may_not_be_read_is_not_called_damaged_and_hides_nothing(
    folder: Path, closed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of a run, or its folder."""
    open_up(folder)
    (seed_of(folder, 0) / closed).chmod(0)
    with as_nobody():
        found = {row["id"][-1]: row for row in listed(folder, capsys)}
    assert {seed: row["state"] for seed, row in found.items()} == {"0": "unreadable", "1": "interrupted", "2": "done"}
    assert "Permission denied" in found["0"]["message"]
