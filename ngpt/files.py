"""Files that are whole or absent: atomic writes, checked JSON, and locks that die with their owner. No torch."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ngpt.errors import InputError


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; on success it is flushed to disk and takes `path`'s place.

    A reader, or a restart after a kill, sees the old file or the new one, never a part. Raises InputError, naming the
    file, if the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, a write that the system refuses without saying where, as on a full disk, becomes an InputError."""
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
    """What `write_json` wrote. Raises InputError, naming the file, if it is absent, cut off or changed."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: truncated or damaged: {error}") from error
    return content_of(text, str(path))


def json_text(content: dict[str, Any], *, indent: int | None = None) -> str:
    """`content` and its checksum as JSON text, with a line end. NaN and infinity raise ValueError."""
    return json.dumps({**content, "checksum": _checksum(content)}, indent=indent, allow_nan=False) + "\n"


def content_of(text: str, where: str) -> dict[str, Any]:
    """The inverse of `json_text`. Raises InputError, beginning with `where`, if the text is cut off or changed."""
    try:
        body = json.loads(text, parse_constant=_refuse)
        sound = isinstance(body, dict) and body.pop("checksum", None) == _checksum(body)
    except (ValueError, RecursionError) as error:  # not JSON, not a number, or brackets without end
        raise InputError(f"{where}: truncated or damaged: {error}") from error
    if not sound:
        raise InputError(f"{where}: damaged: its content does not match its checksum")
    return dict(body)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on `path` and yield True, or yield False at once if another process holds it.

    The operating system releases the lock when its holder ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of `path`; creates nothing."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
