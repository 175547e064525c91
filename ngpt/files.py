"""Files that are whole or absent: atomic writes, checked JSON, and locks that die with their owner. No torch."""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ngpt.errors import InputError, as_input_error, require

PATIENCE = 0.2
"""Seconds to wait for a lock: `is_locked`, in another process, holds one for an instant to find out"""


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success flush it to disk and let it replace `path`.

    A reader, or a restart after a kill, sees the old file or the new one, never a part of either. Raises InputError,
    naming the file, if the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with write_errors_named(path):
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask says; some libraries write files that only their owner reads
            yield temporary
            temporary.chmod(mode)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files beside `path` that killed processes have left: no others, whatever their names."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+")
    return [one for one in path.parent.iterdir() if pattern.fullmatch(one.name) and one.is_file()]


@contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """Turn a failed write whose error names no file, as on a full disk, into an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise InputError(f"{path}: could not be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with replaced_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any], *, indent: int | None = 1) -> None:
    """Write `content` atomically with a checksum of itself, which `read_json` verifies. NaN and infinity raise."""
    write_text(path, json_text(content, indent=indent))


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote. Raises InputError, naming the file, if it is absent, cut off or changed."""
    require_readable(path)
    with as_input_error(f"{path}: truncated or damaged", UnicodeDecodeError):
        return content_of(path.read_text(encoding="utf-8"), str(path))


def require_readable(path: Path) -> None:
    """Raise InputError if there is no such file, and the error of the system if it may not be read."""
    try:
        path.open("rb").close()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error


def is_forbidden(error: BaseException | None) -> bool:
    """Return whether an error says, or was raised because, something may not be read."""
    return error is not None and (isinstance(error, PermissionError) or is_forbidden(error.__cause__))


def holds_any(folder: Path, names: Iterable[str]) -> bool:
    """Return whether a folder holds one of these files, or may not be looked into."""
    try:
        return any((folder / name).exists() for name in names)
    except PermissionError:
        return True


def json_text(content: dict[str, Any], *, indent: int | None = None) -> str:
    """Return `content` with its checksum as JSON text and a newline. NaN and infinity raise ValueError."""
    return json.dumps({**content, "checksum": _checksum(content)}, indent=indent, allow_nan=False) + "\n"


def content_of(text: str, where: str) -> dict[str, Any]:
    """Parse what `json_text` returned. Raises InputError, starting with `where`, if it is cut off or changed."""
    with as_input_error(f"{where}: truncated or damaged", ValueError, RecursionError):  # brackets without end
        body = json.loads(text, parse_constant=_refuse)
        sound = isinstance(body, dict) and body.pop("checksum", None) == _checksum(body)
    require(sound, f"{where}: damaged: its content does not match its checksum")
    return dict(body)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on `path` and yield True; yield False if another process holds it for `PATIENCE` seconds.

    The operating system releases the lock when its holder ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE
    with path.open("w") as file:
        while not _takes(file, fcntl.LOCK_EX):
            if time.monotonic() >= until:
                yield False
                return
            time.sleep(PATIENCE / 10)
        yield True


def _takes(file: IO[Any], kind: int) -> bool:
    """Return whether a lock of that kind was free, and taken."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock on `path`; creates nothing."""
    try:
        with path.open("rb") as file:
            return not _takes(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
