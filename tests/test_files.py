"""Files that are whole or absent, JSON that proves itself, and locks that die with their holder."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ngpt.errors import InputError
from ngpt.files import is_locked, leftovers, locked, read_json, replaced_atomically, write_json, write_text

ROOT = Path(__file__).parents[1]
CONTENT: dict[str, Any] = {"a": [1, 2.5, None], "größe": {"b": "≤", "c": True}, "loss": 6.425}


# --- atomic replacement ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, "old text"])
def test_the_new_file_takes_the_place(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    with replaced_atomically(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent, "a rename is atomic only within one file system"
        assert (path.read_text() if path.exists() else None) == old
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("old", [None, "old text"])
@pytest.mark.parametrize("written", [None, "", "half of the n"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_failure_inside_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, old: str | None, written: str | None, error: BaseException
) -> None:
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    kind = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(kind), replaced_atomically(path) as temporary:
        if written is not None:
            temporary.write_text(written)
        raise error
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == ({} if old is None else {"file.txt": old})


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077], ids=oct)
def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int) -> None:
    """Also where a library writes a file of its own, as safetensors does with mode 0600."""

    def by_a_library(path: Path) -> None:
        os.close(os.open(path.with_name("own"), os.O_CREAT | os.O_WRONLY, 0o600))
        os.replace(path.with_name("own"), path)

    earlier = os.umask(umask)
    try:
        write_text(tmp_path / "text", "new")
        with replaced_atomically(tmp_path / "tensors") as temporary:
            by_a_library(temporary)
    finally:
        os.umask(earlier)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_only_own_temporary_files_are_leftovers(tmp_path: Path) -> None:
    own = [".record.json.1", ".record.json.4194304"]
    others = [".record.json.swp", ".record.json.", ".record.json.1~", ".record.jsonx.1", "record.json.1", ".hidden"]
    for name in own + others:
        (tmp_path / name).touch()
    (tmp_path / ".record.json.2").mkdir()
    assert sorted(path.name for path in leftovers(tmp_path / "record.json")) == own


def test_what_is_written_reaches_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        calls.append(("fsync", os.fstat(fd).st_size))
        fsync(fd)

    def replaced(old: Path, new: Path) -> None:
        calls.append(("replace", old.stat().st_size))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_text(tmp_path / "file.txt", "12345")
    assert calls[:2] == [("fsync", 5), ("replace", 5)]


# --- checked JSON ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
def test_json_round_trip(tmp_path: Path, indent: int | None) -> None:
    write_json(tmp_path / "a.json", CONTENT, indent=indent)
    assert read_json(tmp_path / "a.json") == CONTENT
    assert json.loads((tmp_path / "a.json").read_text()).items() >= CONTENT.items(), "any program can read it"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", CONTENT)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"deep": [{"loss": value}]})
    assert read_json(tmp_path / "a.json") == CONTENT and os.listdir(tmp_path) == ["a.json"]


def damaged() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    def changed(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
        def change(content: bytes) -> bytes:
            assert old in content
            return content.replace(old, new)

        return change

    for share in (0.0, 0.3, 0.9):
        yield f"first {share:.0%}", lambda content, share=share: content[: int(share * len(content))]  # type: ignore[misc]
    yield "a changed digit", changed(b"6.425", b"6.424")
    yield "a changed key", changed(b'"loss"', b'"lost"')
    yield "a bit beyond ASCII", changed(b'"loss"', b'"l\xefss"')
    yield "not a number", changed(b"6.425", b"NaN")
    yield "no object", lambda content: b"[1, 2]"
    yield "no checksum", lambda content: b'{"loss": 6.425}'
    yield "zeros", lambda content: bytes(len(content))


@pytest.mark.parametrize("damage", [pytest.param(change, id=name) for name, change in damaged()])
def test_damage_is_named_and_never_read(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "record.json"
    write_json(path, CONTENT)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="damaged") as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        read_json(tmp_path / "record.json")
    assert str(tmp_path / "record.json") in str(caught.value)


# --- locks -----------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from ngpt.files import locked
with locked(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60 if mine else 0)
"""


@contextmanager
def holder(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that asks for the lock on `path` and keeps it if it can; and whether it got it."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_lock_excludes_another_process_and_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "run"
    with locked(path) as mine, holder(path) as (_, got_it):
        assert mine and got_it == "False"
    with holder(path) as (process, got_it):
        assert got_it == "True"
        with locked(path) as mine:
            assert not mine
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked(path) as mine:
            assert mine
    with locked(path) as mine, locked(tmp_path / "locks" / "another run") as another:
        assert mine and another


def test_a_lock_is_released_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock"):
        raise ZeroDivisionError
    with locked(tmp_path / "lock") as mine:
        assert mine


def test_asking_whether_a_run_is_locked_does_not_take_its_lock_from_it(tmp_path: Path) -> None:
    """One process asks all the time; another one that takes the lock gets it."""
    lock, ended = tmp_path / "lock", threading.Event()
    lock.touch()

    def ask() -> None:
        while not ended.is_set():
            is_locked(lock)
            time.sleep(1e-4)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(2000):
            with locked(lock) as mine:
                assert mine
    finally:
        ended.set()
        asking.join()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with locked(lock) as mine:
            assert not mine
