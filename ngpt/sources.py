"""The source that `--data` names: decided here alone, by looking, for tokenizer and readers alike. No torch."""

import dataclasses
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from ngpt.errors import InputError, require
from ngpt.refusals import is_automaton

Format = Literal["text", "JSON lines", "Parquet", "token shards"]

SHARD_MAGIC = 20240520
"""The first int32 of a token shard."""
PROMISED: dict[str, Format] = {".jsonl": "JSON lines", ".parquet": "Parquet", ".bin": "token shards"}
"""Names that promise a format; a file of such a name that is not in it is damaged, not something else."""
DATA_SUFFIXES = (".txt", *PROMISED)
HEAD_BYTES = 1 << 16
"""Bytes of a file that are looked at to tell what it is"""
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x1f\x9d", "a compress archive"),
    *((b"BZh%d" % level, "a bzip2 archive") for level in range(1, 10)),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x04\x22\x4d\x18", "an lz4 archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"ARROW1\0", "an Arrow file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    *((bytes([0x80, version]), "a serialized Python object") for version in range(2, 6)),
)


@dataclass(frozen=True)
class Stamp:
    """A file at one time; another stamp of the same path means that the file was changed in between."""

    path: Path
    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Return the stamp of `path` now."""
        found = status_of(path)
        return cls(path, found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True)
class DataFile:
    """A file, and what it was found to be."""

    path: Path
    format: Format | None
    """None: nothing that can be read"""
    looks_like: str = ""
    """what it is instead"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source that `--data` names."""

    kind: Literal["stdlib", "fineweb10b", "hub", "automaton", "files"]
    name: str
    files: tuple[DataFile, ...] = ()
    """files yet to be split into training and validation"""
    train: tuple[DataFile, ...] = ()
    """files for training by their names"""
    val: tuple[DataFile, ...] = ()
    """files for validation by their names"""
    unread: tuple[DataFile, ...] = ()
    """files beside them that are not read"""

    @property
    def read(self) -> tuple[DataFile, ...]:
        """All files that are read."""
        return (*self.files, *self.train, *self.val)

    @property
    def holds_tokens(self) -> bool:
        """Return whether the source holds GPT-2 tokens instead of text."""
        return self.kind == "fineweb10b" or any(file.format == "token shards" for file in self.read)

    @property
    def found(self) -> str:
        """Return what was found, in a few words."""
        if self.kind != "files":
            return self.name
        formats = " and ".join(sorted({str(file.format) for file in self.read}))
        count = f"{len(self.files)} files" if len(self.files) > 1 else ""
        if self.train:
            count = f"{len(self.train)} training and {len(self.val)} validation files"
        words = ", ".join(filter(None, [formats, count]))
        if self.unread:
            first = self.unread[0]
            why = f", {first.looks_like}" if first.looks_like else ""
            words += f" ({len(self.unread)} beside not read: {first.path.name}{why}{'; ...' * (len(self.unread) > 1)})"
        return f"{self.name}: {words}"


BUILT_IN: dict[str, Literal["stdlib", "fineweb10b"]] = {"stdlib": "stdlib", "fineweb10b": "fineweb10b"}
"""Sources with a name of their own"""


def source_of(data: str) -> Source:
    """Return what `data` names. Raises InputError, naming the file, if nothing that can be read is there."""
    if is_automaton(data):
        return Source(kind="automaton", name=data)
    if data in BUILT_IN:
        return Source(kind=BUILT_IN[data], name=data)
    if data.startswith("hf:"):
        return Source(kind="hub", name=data)
    path = Path(data)
    name = path.name or path.resolve().name
    status = status_of(path, ", and not one of stdlib, fineweb10b, nca, hf:NAME")
    if stat.S_ISDIR(status.st_mode):
        return dataclasses.replace(_folder(path), name=name)
    file = look(path)
    require(file.format is not None, f"{path}: looks like {file.looks_like}, not like UTF-8 text, Parquet or a shard")
    return Source(kind="files", name=name, files=(file,))


def name_of(data: str) -> str:
    """Return `data` itself or, if it is a path, the name of the file or folder there.

    >>> name_of("stdlib"), name_of("hf:org/text"), name_of("/home/me/text.txt"), name_of("/home/me/stdlib")
    ('stdlib', 'hf:org/text', 'text.txt', './stdlib')
    """
    if is_no_path(data):
        return data
    name = Path(data).name or Path(data).resolve().name
    return f"./{name}" if is_no_path(name) else name


def is_no_path(data: str) -> bool:
    """Return whether `data` names a source that is no file or folder."""
    return is_automaton(data) or data in BUILT_IN or data.startswith("hf:")


def changed_file(data: str, stamps: Iterable[Stamp]) -> Path | None:
    """Return a file of `data` that is not as it was when `stamps` were taken: changed, added or gone; None if none."""
    before = {stamp.path: stamp for stamp in stamps}
    for path, stamp in before.items():
        if not path.exists() or Stamp.of(path) != stamp:
            return path
    source = source_of(data)
    return next((file.path for file in source.read if file.path not in before), None)


# --- one file --------------------------------------------------------------------------------------------------------


def status_of(path: Path, hint: str = "") -> os.stat_result:
    """Return the status of a file or folder. Raises InputError that says why there is none; hint: if it is absent."""
    try:
        return path.stat()
    except FileNotFoundError as error:
        broken = path.is_symlink()
        what = f"a broken symlink, to {os.readlink(path)}" if broken else f"no such file or folder{hint}"
        raise InputError(f"{path}: {what}") from error
    except (OSError, ValueError) as error:  # ValueError: a path that holds a null byte
        raise InputError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file for reading; errors while it is open become InputError with its name."""
    require(stat.S_ISREG(status_of(path).st_mode), f"{path}: not a regular file")  # a pipe can be read only once
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}") from error


def look(path: Path, *, trust_bin: bool = True) -> DataFile:
    """Return what a file is by its first bytes; names decide only that a damaged file is damaged (`PROMISED`).

    trust_bin: whether a name that ends in .bin promises a shard. Raises InputError if the file cannot be read.
    """
    with opened(path) as file:
        head = file.read(HEAD_BYTES)
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4))
        tail = file.read(4)
    if head.startswith(SHARD_MAGIC.to_bytes(4, "little")):
        return DataFile(path, "token shards")
    if head.startswith(b"PAR1") and (tail == b"PAR1" or b"\0" in head):
        return DataFile(path, "Parquet")
    foreign = next((what for signature, what in SIGNATURES if head.startswith(signature)), None)
    if foreign is None and head[257:262] == b"ustar":
        foreign = "a tar archive"
    if foreign is not None:
        return DataFile(path, None, foreign)
    promised = PROMISED.get(path.suffix.lower())
    if promised is not None and (trust_bin or promised != "token shards"):
        return DataFile(path, promised)
    if b"\0" in head:
        return DataFile(path, None, "binary data")
    is_text = path.suffix.lower() == ".txt" or not _holds_json_lines(path)
    return DataFile(path, "text" if is_text else "JSON lines")


def _holds_json_lines(path: Path) -> bool:
    """Return whether the first line is a JSON object with a "text", or the first two lines are JSON objects."""
    objects = 0
    with opened(path) as file:
        for line in file:
            if not line.strip():
                continue
            if not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
                return False
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                return False
            objects += isinstance(row, dict)
            if "text" in row or objects == 2:
                return True
    return False


# --- a folder --------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> Source:
    """Return the files of a folder.

    If names of files or subfolders say which are for training and which for validation, only those count, and of them
    only files with a data suffix if those suffice. Otherwise every file below the folder is read, and the text split;
    also if files without a data suffix are so named among others of their kind, as in a folder of sources.
    """
    entries = _entries(path)
    data = [entry for entry in entries if entry.suffix.lower() in DATA_SUFFIXES and not entry.is_dir()]
    for candidates in (data, entries):
        parts = {word: [entry for entry in candidates if words_of(entry) == {word}] for word in ("train", "val")}
        both = next((entry for entry in candidates if len(words_of(entry)) == 2), None)
        if both is not None and (candidates is data or all(parts.values())):
            raise InputError(f"{both}: its name says both 'train' and 'val'")
        if all(parts.values()) and not (candidates is entries and _among_others(parts, entries)):
            train, val = ([look(file) for entry in parts[word] for file in _below(entry)] for word in ("train", "val"))
            for word, part in (("train", train), ("val", val)):
                require(bool(part), f"{parts[word][0]}: an empty folder")
            chosen = {entry for part in parts.values() for entry in part}
            unread = [DataFile(entry, None) for entry in entries if entry not in chosen]
            return _sound(path, Source(kind="files", name=path.name, train=tuple(train), val=tuple(val),
                                       unread=tuple(unread)))  # fmt: skip
    given = next(((entry, words_of(entry)) for entry in data if words_of(entry)), None)
    if given is not None:
        entry, words = given
        word = "val" if words == {"train"} else "train"
        kinds = ".txt, .jsonl, .parquet or .bin file"
        raise InputError(f"{path}: no {kinds} with '{word}' in its name, to go with {entry.name}")
    paths = [file for entry in entries for file in _below(entry)]
    require(bool(paths), f"{path}: an empty folder")
    files = [look(file, trust_bin=False) for file in paths]
    if any(file.format == "token shards" for file in files):
        files = [look(file.path) if file.path.suffix.lower() == ".bin" else file for file in files]
    readable, unread = ([file for file in files if (file.format is not None) == good] for good in (True, False))
    require(bool(readable), f"{path}: nothing to read: {files[0].path.name} looks like {files[0].looks_like}")
    return _sound(path, Source(kind="files", name=path.name, files=tuple(readable), unread=tuple(unread)))


def _among_others(parts: dict[str, list[Path]], entries: list[Path]) -> bool:
    """Return whether files of `parts` have the suffix of a file in or below the other entries."""
    chosen = {entry for part in parts.values() for entry in part}
    suffixes = {entry.suffix.lower() for entry in chosen if not entry.is_dir()}
    others = (file for entry in entries if entry not in chosen for file in _below(entry))
    return any(file.suffix.lower() in suffixes for file in others)


def _sound(path: Path, source: Source) -> Source:
    """Return `source` if its files go together."""
    for file in source.read:
        require(file.format is not None, f"{file.path}: looks like {file.looks_like}, not like data")
    first = {file.format == "token shards": file.path.name for file in source.read}
    require(len(first) == 1, f"{path}: text and token shards are mixed: {first.get(False)} and {first.get(True)}")
    return source


def words_of(path: Path) -> set[str]:
    """Return which of "train" and "val" are words of a file's name: "train_values" has no word "val"."""
    spelled = re.compile("(?:(train|training)|(val|valid|validation))(?:set|data|split)?")
    found = (spelled.fullmatch(word) for word in re.findall(r"[^\W\d_]+", path.stem.lower()))
    return {"train" if match[1] else "val" for match in found if match is not None}


def _entries(path: Path) -> list[Path]:
    """Return files and folders in a folder by name, without hidden ones and caches of compiled code."""
    try:
        found = sorted(path.iterdir())
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}") from error
    return [entry for entry in found if not entry.name.startswith(".") and entry.name != "__pycache__"]


def _below(entry: Path) -> Iterator[Path]:
    """Yield a file, or the files at any depth below a folder; links to folders are not followed."""
    if not stat.S_ISDIR(status_of(entry).st_mode):
        yield entry
    elif not entry.is_symlink():
        for inner in _entries(entry):
            yield from _below(inner)
