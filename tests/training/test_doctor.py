"""The doctor: says nothing of what is whole, names every damaged file, and writes nothing."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import as_nobody, killed, open_up, small, start

from ngpt import doctor
from ngpt.errors import EXIT_BAD_INPUT, exit_code_of
from ngpt.files import locked, read_json, write_json
from ngpt.training.record import CHECKPOINT, WEIGHTS


@pytest.fixture(scope="module")
def runs(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, a killed one with its checkpoint, and one that was set aside."""
    out = tmp_path_factory.mktemp("doctor") / "runs"
    start(small(data), out)
    start(small(data), out)
    killed(small(data, seed=1), out)
    return out


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def diagnosis(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code and lines."""
    capsys.readouterr()
    code = exit_code_of(lambda: doctor.main([str(folder)]))
    captured = capsys.readouterr()
    return code, (captured.out + captured.err).splitlines()


def content_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path} {path.stat().st_mtime_ns}\n".encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def one_of(runs: Path, name: str) -> Path:
    """A run folder that has the file `name`, not one that was set aside."""
    return next(path.parent for path in sorted(runs.glob(f"*/{name}")) if "." not in path.parent.name)


def test_whole_runs_are_whole(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = diagnosis(runs, capsys)
    assert code == 0 and lines[-1] == "3 runs: 2 done, 1 killed; 0 damaged files"
    assert len(lines) == 2 and "killed after 8 recorded steps: --resume continues it" in lines[0]
    code, lines = diagnosis(one_of(runs, WEIGHTS), capsys)
    assert (code, lines) == (0, ["1 runs: 1 done; 0 damaged files"])


def test_a_run_in_progress_is_left_alone(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = one_of(copied, CHECKPOINT)
    (folder / CHECKPOINT).write_bytes(b"being written")
    with locked(copied / ".locks" / folder.name) as mine:
        assert mine
        code, lines = diagnosis(copied, capsys)
    assert code == 0 and any("a process is working on it" in line for line in lines)
    code, lines = diagnosis(copied, capsys)
    assert code == 1 and str(folder / CHECKPOINT) in "".join(lines)


def test_leftovers_and_strangers_are_noted(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = one_of(copied, CHECKPOINT)
    (folder / f".{CHECKPOINT}.123").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    (folder / ".ipynb_checkpoints").mkdir()
    (copied / "plots").mkdir()
    code, lines = diagnosis(copied, capsys)
    assert code == 0
    assert any(f".{CHECKPOINT}.123: left by a killed process" in line for line in lines)
    for name in ("notes.txt", ".ipynb_checkpoints"):
        assert any(f"{name}: not a file of a run" in line for line in lines)


@pytest.mark.parametrize("where", ["nowhere", "empty", "file"])
def test_a_folder_without_runs_is_bad_input(tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    code, lines = diagnosis(tmp_path / where, capsys)
    assert code == EXIT_BAD_INPUT and len(lines) == 1 and str(tmp_path / where) in lines[0]


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << generator.randrange(8))]) + content[at + 1 :]


def cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


def blank(content: bytes, generator: random.Random) -> bytes:
    at, length = generator.randrange(len(content)), generator.randint(1, 500)
    return content[:at] + bytes(len(content[at : at + length])) + content[at + length :]


def repeat(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content) - 8)
    return content[: at + 8] + content[at:]


def same_content(broken: bytes, whole: bytes, name: str) -> bool:
    """Of JSON: whether only blanks between the values differ, or digits beyond the precision of a number."""
    if not broken.endswith(b"\n"):
        return False
    documents = [[content] if name.endswith(".json") else content.splitlines() for content in (broken, whole)]
    try:
        found, expected = ([json.loads(text) for text in texts] for texts in documents)
    except ValueError:
        return False
    return bool(found == expected)


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [flip, cut, blank, repeat]
CASES = [
    *[("done", name) for name in ("record.json", "config.json", "metrics.jsonl", WEIGHTS)],
    *[("killed", name) for name in ("record.json", "config.json", CHECKPOINT)],
]


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("status", "name"), CASES)
def test_every_damaged_file_is_named_and_nothing_is_written(
    copied: Path, capsys: pytest.CaptureFixture[str], status: str, name: str, damage: Any, count: int
) -> None:
    folder = one_of(copied, WEIGHTS if status == "done" else CHECKPOINT)
    generator = random.Random(f"{status} {name} {damage.__name__}")
    whole = (folder / name).read_bytes()
    for number in range(count):
        broken = damage(whole, generator)
        if broken == whole or (".json" in name and same_content(broken, whole, name)):
            continue
        (folder / name).write_bytes(broken)
        before = content_of(copied)
        code, lines = diagnosis(copied, capsys)
        named = [line for line in lines if line.startswith("damaged: ")]
        assert code == 1 and len(named) == 1 and f"damaged: {folder / name}" in named[0], (number, lines)
        assert lines[-1].endswith("1 damaged files") and content_of(copied) == before


def test_a_file_that_cannot_be_read_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = one_of(copied, WEIGHTS)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    code, lines = diagnosis(copied, capsys)
    assert code == 1 and f"damaged: {folder / 'config.json'}: cannot be read: Is a directory" in lines


@pytest.mark.parametrize("name", ["record.json", "config.json", "metrics.jsonl", WEIGHTS])
def test_a_file_of_another_run_is_named(
    data: str, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Whole, but not this run's."""
    other, _ = start(small(data, lr=0.01), tmp_path / "other")
    folder = one_of(copied, WEIGHTS)
    shutil.copy(other / name, folder / name)
    code, lines = diagnosis(copied, capsys)
    assert code == 1 and any(line.startswith(f"damaged: {folder / name}") for line in lines)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"final_val_loss": None}, "done without a final loss"),
        ({"weights_sha256": {}}, "done without a final loss and the digest of final weights"),
        ({"weights_sha256": {"final": "0" * 64}}, "not the final weights of the record"),
        ({"steps": 11}, "its lines end at step 12 of 11"),
        ({"seed": 5}, "its id is not that of"),
        ({"run_id": "muon-0000000000-s0"}, "the record of muon-0000000000-s0"),
        ({"final_val_loss": 1.0}, "its last validation loss is not the record's"),
    ],
)
def test_contradictions_are_named(
    copied: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], reason: str
) -> None:
    folder = one_of(copied, WEIGHTS)
    record = {**read_json(folder / "record.json"), **change}
    write_json(folder / "record.json", {name: value for name, value in record.items() if value is not None})
    code, lines = diagnosis(copied, capsys)
    assert code == 1 and reason in "\n".join(lines)


def test_a_line_lost_at_the_end_of_the_metrics_is_seen(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = one_of(copied, WEIGHTS)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert all("checksum" in json.loads(line) for line in lines)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))
    code, lines = diagnosis(copied, capsys)
    assert code == 1 and any("metrics.jsonl: its lines end at step 11 of 12" in line for line in lines)


@pytest.mark.parametrize("closed", ["record.json", WEIGHTS, ""])
def test_what_may_not_be_read_is_not_examined(copied: Path, closed: str, capsys: pytest.CaptureFixture[str]) -> None:
    open_up(copied)
    (one_of(copied, WEIGHTS) / closed).chmod(0)
    with as_nobody():
        code, lines = diagnosis(copied, capsys)
    assert code == 0 and lines[-1].endswith("1 unreadable; 0 damaged files") and len(lines) == 3
    assert any(line.endswith("Permission denied: not examined") for line in lines)


def test_a_closed_pipe_ends_the_doctor_quietly(copied: Path) -> None:
    line = f"{sys.executable} -m ngpt.doctor {copied} | true; exit ${{PIPESTATUS[1]}}"
    done = subprocess.run(["bash", "-c", line], cwd=Path(doctor.__file__).parents[1], capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("name", [WEIGHTS, CHECKPOINT])
@pytest.mark.parametrize("lose", [lambda lines: lines[:3] + lines[4:], lambda lines: []], ids=["one line", "all lines"])
def test_lost_lines_are_damage(
    copied: Path, name: str, lose: Callable[[list[str]], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a finished run and of one that was killed."""
    path = one_of(copied, name) / "metrics.jsonl"
    path.write_text("".join(lose(path.read_text().splitlines(keepends=True))))
    code, lines = diagnosis(copied, capsys)
    assert code == 1 and any(str(path) in line and "damaged" in line for line in lines)


def test_what_to_do_is_what_works(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = one_of(copied, CHECKPOINT)
    (folder / CHECKPOINT).write_bytes(b"cut off")
    folder.with_name(f"{folder.name}.1").mkdir()
    shutil.copytree(folder, folder.with_name(f"{folder.name}.1"), dirs_exist_ok=True)
    _, lines = diagnosis(copied, capsys)
    said = "".join(lines)
    assert "its checkpoint is damaged; without --resume it starts over" in said
    assert "it was set aside when the run was started anew" in said and "--resume continues it" not in said


def test_a_record_that_is_a_folder_hides_no_other_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = one_of(copied, WEIGHTS) / "record.json"
    path.unlink()
    path.mkdir()
    code, lines = diagnosis(copied, capsys)
    assert code == 1 and lines[-1].startswith("3 runs: ") and any("record.json" in line for line in lines)


def test_inside_a_run_folder_it_knows_the_run(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(one_of(copied, WEIGHTS))
    assert diagnosis(Path("."), capsys) == (0, ["1 runs: 1 done; 0 damaged files"])


@pytest.mark.parametrize("config", [{"optim": [1], "train": None, "seed": 0}, {"train": {"log_every": 0}, "seed": 0}])
def test_the_configuration_of_another_version_is_no_traceback(
    copied: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = one_of(copied, WEIGHTS)
    record = read_json(folder / "record.json")
    write_json(folder / "record.json", record | {"config": config})
    write_json(folder / "config.json", config)
    code, lines = diagnosis(folder, capsys)
    assert code == 1 and "its id is not that of its configuration" in lines[0]
