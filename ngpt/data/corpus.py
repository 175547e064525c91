"""Corpora: every source of text or tokens becomes a `Corpus` of training and validation tokens with a digest.

Text is split by document: the SHA-256 of a document decides whether it is for validation (one in twenty) and where it
comes in its split, so that neither file names nor the order of files matter. Duplicate documents count once.
"""

import hashlib
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ngpt.config import DataConfig
from ngpt.data.batches import Windows
from ngpt.data.cellular import Automaton, trajectories
from ngpt.data.shards import read_shard
from ngpt.data.tokenizers import GPT2_VOCAB, Tokenizer, Tokens
from ngpt.errors import InputError, as_input_error, require
from ngpt.presets import default_tokenizer

VALIDATION_SHARE = 0.05
FINEWEB_REPO = "kjj0/fineweb10B-gpt2"
"""The data set on the hub that modded-nanogpt trains on: FineWeb-10B in GPT-2 tokens."""
TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
DOCUMENT_MARK = b"<|endoftext|>"
"""Separates documents inside a .txt file."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokens for training and for validation."""

    name: str
    train: Tokens
    """(n_train,) token ids"""
    val: Tokens
    """(n_val,) token ids, never trained on"""
    vocab_size: int
    byte_lengths: NDArray[np.int64] | None
    """bytes of text that each token id stands for, (vocab_size,); None if they are not known"""
    digest: str
    """SHA-256 of tokenizer, training and validation tokens"""
    record: int | None = None
    """length of a record, if the tokens are records of one length, each to be read from its start; None: a stream"""
    context: int = 0
    """number of tokens at the start of a record that are never targets"""

    def windows(self, tokens: Tokens, seq_len: int) -> Windows:
        """Return the windows of `seq_len` inputs and targets in `train` or `val`."""
        return Windows(tokens, seq_len, self.record, self.context)


def load_corpus(config: DataConfig) -> Corpus:
    """Load the corpus that `config` names. Raises InputError in one line on anything wrong with it."""
    kind = default_tokenizer(config.data) if config.tokenizer == "auto" else config.tokenizer
    if kind == "patches":
        return _automata(config.data)
    tokenizer = Tokenizer(kind)
    if config.data == "stdlib":
        return _from_documents("stdlib", _stdlib_documents(), tokenizer)
    if config.data == "fineweb10b":
        train, val = _fetch_fineweb(config.shards)
        return _from_shards("fineweb10b", train, val, _gpt2_byte_lengths())
    if config.data.startswith("hf:"):
        return _from_documents(config.data, _hub_documents(config.data.removeprefix("hf:")), tokenizer)
    path = Path(config.data)
    expected = "no such file or folder, and not one of stdlib, fineweb10b, nca, hf:NAME"
    require(path.exists(), f"--data {config.data}: {expected}")
    return _from_folder(path, tokenizer) if path.is_dir() else _from_file(path, tokenizer)


# --- text ------------------------------------------------------------------------------------------------------------


def _from_documents(name: str, documents: Iterable[bytes], tokenizer: Tokenizer) -> Corpus:
    by_hash = sorted({hashlib.sha256(document).digest(): document for document in documents if document}.items())
    bound = int(VALIDATION_SHARE * 2**64)
    val = [document for digest, document in by_hash if int.from_bytes(digest[-8:], "big") < bound]
    train = [document for digest, document in by_hash if int.from_bytes(digest[-8:], "big") >= bound]
    if len(by_hash) == 1:  # a single document: its end is for validation
        train, val = _split_tail(by_hash[0][1])
    elif by_hash and not (train and val):  # too few documents for one in twenty
        train, val = [document for _, document in by_hash[1:]], [by_hash[0][1]]
    return _encoded(name, train, val, tokenizer)


def _split_tail(document: bytes) -> tuple[list[bytes], list[bytes]]:
    """Cut one document into its first 95% and its last 5%, at the end of a line if one is near."""
    at = int(len(document) * (1 - VALIDATION_SHARE))
    line_end = document.find(b"\n", at, at + len(document) // 100)
    at = line_end + 1 if line_end >= 0 else at
    while 0 < at < len(document) and document[at] & 0xC0 == 0x80:  # not inside a UTF-8 character
        at += 1
    return [document[:at]], [document[at:]]


def _encoded(name: str, train: Iterable[bytes], val: Iterable[bytes], tokenizer: Tokenizer) -> Corpus:
    parts = [tokenizer.encode(train)], [tokenizer.encode(val)]
    return _token_corpus(name, *parts, tokenizer, tokenizer.byte_lengths())


def _stdlib_documents() -> Iterator[bytes]:
    """Yield the source files of this Python's standard library, without its tests and without installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    paths: list[Path] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        paths += [Path(folder) / file for file in files if file.endswith(".py")]
    require(bool(paths), f"--data stdlib: this Python keeps no source of its standard library in {root}")
    yield from (path.read_bytes() for path in paths)


def _file_documents(path: Path) -> Iterator[bytes]:
    """Yield the documents of one UTF-8 file: a .txt is split at DOCUMENT_MARK, the others have one "text" per row."""
    if path.suffix == ".txt":
        content = path.read_bytes()
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
        yield from (document for document in content.split(DOCUMENT_MARK) if document.strip())
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json_text(line, f"{path}, line {number}")
    else:
        import pyarrow.lib
        import pyarrow.parquet

        with as_input_error(f"{path}: not a parquet file with a column 'text'", pyarrow.lib.ArrowException, KeyError):
            column = pyarrow.parquet.read_table(path, columns=["text"])["text"]
        yield from (str(row).encode() for row in column.to_pylist() if row)


def _json_text(line: bytes, where: str) -> bytes:
    with as_input_error(f"{where}: not JSON", ValueError, RecursionError):  # or not UTF-8, or nested too deeply
        row = json.loads(line)
    require(isinstance(row, dict) and isinstance(row.get("text"), str), f"{where}: no string under 'text'")
    return row["text"].encode("utf-8", "replace")


def _hub_documents(name: str) -> Iterator[bytes]:
    """Yield the column "text" of the training split of a data set, by its name on the hub or its local folder."""
    import datasets

    _quiet_hub()
    with as_input_error(f"--data hf:{name} could not be loaded", Exception):  # the library raises many kinds
        rows = datasets.load_dataset(name, split="train")
    names = rows.column_names or []
    require("text" in names, f"--data hf:{name} has no column 'text', only {', '.join(names)}")
    for text in (row["text"] for row in rows):
        kind = type(text).__name__
        require(isinstance(text, str | None), f"--data hf:{name} has a column 'text' of {kind}, not of text")
        if text:
            yield text.encode("utf-8", "replace")


def _automata(name: str) -> Corpus:
    """Simulate cellular automata; the rules of validation sequences are not among those of training."""
    automaton = Automaton.named(name)
    counts = automaton.rules, max(1, round(VALIDATION_SHARE * automaton.rules))
    train, val = (trajectories(automaton, n, stream=stream).reshape(-1) for stream, n in enumerate(counts))
    return Corpus(
        name=name, train=train, val=val, vocab_size=automaton.vocab_size, byte_lengths=None,
        digest=_digest("patches", [train], [val]), record=automaton.tokens_per_sequence,
        context=automaton.tokens_per_grid,
    )  # fmt: skip


# --- files and folders -----------------------------------------------------------------------------------------------


def _from_file(path: Path, tokenizer: Tokenizer) -> Corpus:
    if path.suffix == ".bin":
        _require_gpt2(path, tokenizer)
        tokens = read_shard(path, GPT2_VOCAB)
        at = _document_start(tokens, int(len(tokens) * (1 - VALIDATION_SHARE)))
        return _token_corpus(path.name, [tokens[:at]], [tokens[at:]], tokenizer, None)
    known = path.suffix in TEXT_SUFFIXES
    require(known, f"{path}: unknown kind of file; expected .txt, .jsonl, .parquet or .bin")
    return _from_documents(path.name, _file_documents(path), tokenizer)


def _from_folder(path: Path, tokenizer: Tokenizer) -> Corpus:
    """Load a folder: files with `train` in their name are for training, files with `val` for validation."""
    files = sorted(file for file in path.iterdir() if file.suffix in (*TEXT_SUFFIXES, ".bin"))
    val = [file for file in files if _has_word(file, "val")]
    train = [file for file in files if _has_word(file, "train") and file not in val]
    for part, word in ((train, "train"), (val, "val")):
        require(bool(part), f"{path}: no .txt, .jsonl, .parquet or .bin file with '{word}' in its name")
    kinds = {file.suffix == ".bin" for file in train + val}
    require(len(kinds) == 1, f"{path}: text and token shards are mixed")
    if kinds == {True}:
        _require_gpt2(path, tokenizer)
        return _from_shards(path.name, train, val, None)
    train_documents, val_documents = ([d for file in part for d in _file_documents(file)] for part in (train, val))
    return _encoded(path.name, train_documents, val_documents, tokenizer)


def _has_word(file: Path, start: str) -> bool:
    """Return whether a word of the file's name begins with `start`: "retrieval_train.txt" has no word "val"."""
    return any(word.startswith(start) for word in re.findall("[a-z]+", file.stem.lower()))


def _from_shards(name: str, train: list[Path], val: list[Path], byte_lengths: NDArray[np.int64] | None) -> Corpus:
    train_tokens, val_tokens = ([read_shard(path, GPT2_VOCAB) for path in paths] for paths in (train, val))
    return _token_corpus(name, train_tokens, val_tokens, Tokenizer("gpt2"), byte_lengths)


def _token_corpus(
    name: str, train: list[Tokens], val: list[Tokens], tokenizer: Tokenizer, byte_lengths: NDArray[np.int64] | None
) -> Corpus:
    one_train, one_val = (part[0] if len(part) == 1 else np.concatenate(part) for part in (train, val))
    return Corpus(
        name=name, train=one_train, val=one_val, vocab_size=tokenizer.vocab_size, byte_lengths=byte_lengths,
        digest=_digest(tokenizer.name, train, val),
    )  # fmt: skip


def _document_start(tokens: Tokens, near: int) -> int:
    """Return the last start of a document in the 5% of all tokens before `near`, or `near` if there is none."""
    first = near - int(len(tokens) * VALIDATION_SHARE)
    starts = np.flatnonzero(tokens[first : near + 1] == GPT2_VOCAB - 1)
    return first + int(starts[-1]) if len(starts) and first + starts[-1] > 0 else near


def _require_gpt2(path: Path, tokenizer: Tokenizer) -> None:
    require(tokenizer.name == "gpt2", f"{path} holds GPT-2 tokens: --tokenizer {tokenizer.name} cannot read it")


def _fetch_fineweb(shards: int) -> tuple[list[Path], list[Path]]:
    """Fetch training and validation shards from the hub, through its local cache."""
    from huggingface_hub import hf_hub_download

    _quiet_hub()
    names = [f"fineweb_train_{i:06d}.bin" for i in range(1, shards + 1)] + ["fineweb_val_000000.bin"]
    with as_input_error("--data fineweb10b could not be fetched from the hub", Exception):  # HTTP, disk, offline
        paths = [Path(hf_hub_download(FINEWEB_REPO, name, repo_type="dataset")) for name in names]
    return paths[:-1], paths[-1:]


def _gpt2_byte_lengths() -> NDArray[np.int64] | None:
    """Return the byte lengths of GPT-2's tokens; None, with a note, if the vocabulary cannot be had."""
    try:
        return Tokenizer("gpt2").byte_lengths()
    except InputError as error:
        print(f"note: no bits per byte: {error}", file=sys.stderr)
        return None


def _quiet_hub() -> None:
    """Silence the hub's client, which reports every retry as a warning; our own error is one line."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


def _digest(tokenizer: str, train: list[Tokens], val: list[Tokens]) -> str:
    """Return the SHA-256 of the tokenizer's name and of both streams, however they are split into shards."""
    digest = hashlib.sha256(tokenizer.encode())
    for part in (train, val):
        digest.update(f"|{sum(len(tokens) for tokens in part)}|".encode())
        for tokens in part:
            digest.update(np.ascontiguousarray(tokens, "<u2").data)
    return digest.hexdigest()
