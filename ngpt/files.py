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

    A reader, or a restart after a kill, sees the old file or the new one, never a part.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with replaced_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any], *, indent: int | None = 1) -> None:
    """Write `content` atomically with a checksum of itself, which `read_json` verifies. NaN and infinity raise."""
    body = dict(content)
    body["checksum"] = _checksum(content)
    write_text(path, json.dumps(body, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises InputError, naming the file, if it is absent, cut off or changed."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:  # not JSON, not UTF-8, or NaN
        raise InputError(f"{path}: truncated or damaged: {error}") from error
    if not isinstance(body, dict) or body.pop("checksum", None) != _checksum(body):
        raise InputError(f"{path}: damaged: its content does not match its checksum")
    return body


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
