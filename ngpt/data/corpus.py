"""Corpora: every source of text or tokens becomes a `Corpus` of training and validation tokens with a digest.

Text is split by document: its SHA-256 decides whether a document is for validation (one in twenty), and orders the
documents within each split, so that neither file names nor the file system's order matter. Documents of equal content
count once.
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

from ngpt.config import DataConfig, default_tokenizer
from ngpt.data.batches import Windows
from ngpt.data.cellular import Automaton, trajectories
from ngpt.data.shards import read_shard
from ngpt.data.tokenizers import GPT2_VOCAB, Tokenizer, Tokens
from ngpt.errors import InputError, first_line

VALIDATION_SHARE = 0.05
FINEWEB_REPO = "kjj0/fineweb10B-gpt2"
"""The hub data set of FineWeb-10B in GPT-2 tokens that modded-nanogpt trains on."""
TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
DOCUMENT_MARK = b"<|endoftext|>"
"""Separates documents inside a .txt file."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokens to train on and to validate on."""

    name: str
    train: Tokens
    """(n_train,) token ids"""
    val: Tokens
    """(n_val,) token ids, never trained on"""
    vocab_size: int
    byte_lengths: NDArray[np.int64] | None
    """bytes of text behind each token id (vocab_size,); None where they are not known"""
    digest: str
    """SHA-256 over tokenizer, training and validation tokens"""
    record: int | None = None
    """tokens of a record, where the tokens are records of one length, each of which is to be seen from its beginning"""
    context: int = 0
    """first tokens of a record, which are never targets"""

    def windows(self, tokens: Tokens, seq_len: int) -> Windows:
        """Windows of `seq_len` inputs and targets over `train` or `val`."""
        return Windows(tokens, seq_len, self.record, self.context)


def load_corpus(config: DataConfig) -> Corpus:
    """The corpus that `config` names. Raises InputError in one line on anything wrong with it."""
    kind = default_tokenizer(config.data) if config.tokenizer == "auto" else config.tokenizer
    if kind == "patches":
        return _automata(config.data)
    tokenizer = Tokenizer(kind)
    if config.data == "stdlib":
        return _from_documents("stdlib", _stdlib_documents(), tokenizer)
    if config.data == "fineweb10b":
        train, val = _fetch_fineweb(config.shards)
        return _from_shards("fineweb10b", train, val, byte_lengths=_gpt2_byte_lengths())
    if config.data.startswith("hf:"):
        return _from_documents(config.data, _hub_documents(config.data.removeprefix("hf:")), tokenizer)
    path = Path(config.data)
    if not path.exists():
        raise InputError(
            f"--data {config.data}: no such file or folder, and not one of stdlib, fineweb10b, nca, hf:NAME"
        )
    return _from_folder(path, tokenizer) if path.is_dir() else _from_file(path, tokenizer)


# --- text ------------------------------------------------------------------------------------------------------------


def _from_documents(name: str, documents: Iterable[bytes], tokenizer: Tokenizer) -> Corpus:
    by_hash = {hashlib.sha256(document).digest(): document for document in documents if document}
    hashes = sorted(by_hash)
    bound = int(VALIDATION_SHARE * 2**64)
    val = [by_hash[h] for h in hashes if int.from_bytes(h[-8:], "big") < bound]
    train = [by_hash[h] for h in hashes if int.from_bytes(h[-8:], "big") >= bound]
    if len(hashes) == 1:  # nothing to split by document: the end of the text is for validation
        train, val = _split_tail(by_hash[hashes[0]])
    elif hashes and not (train and val):  # too few documents for a share of one in twenty
        train, val = [by_hash[h] for h in hashes[1:]], [by_hash[hashes[0]]]
    return _encoded(name, train, val, tokenizer)


def _split_tail(document: bytes) -> tuple[list[bytes], list[bytes]]:
    """Cut one document into its first 95% and its last 5%, at the end of a line if there is one near."""
    at = int(len(document) * (1 - VALIDATION_SHARE))
    line_end = document.find(b"\n", at, at + len(document) // 100)
    at = line_end + 1 if line_end >= 0 else at
    while 0 < at < len(document) and document[at] & 0xC0 == 0x80:  # not inside a UTF-8 character
        at += 1
    return [document[:at]], [document[at:]]


def _encoded(name: str, train: Iterable[bytes], val: Iterable[bytes], tokenizer: Tokenizer) -> Corpus:
    train_tokens, val_tokens = tokenizer.encode(train), tokenizer.encode(val)
    return Corpus(
        name=name,
        train=train_tokens,
        val=val_tokens,
        vocab_size=tokenizer.vocab_size,
        byte_lengths=tokenizer.byte_lengths(),
        digest=_digest(tokenizer.name, [train_tokens], [val_tokens]),
    )


def _stdlib_documents() -> Iterator[bytes]:
    """The source files of this Python's standard library, without its tests and without installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    found = False
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        for file in files:
            if file.endswith(".py"):
                found = True
                yield (Path(folder) / file).read_bytes()
    if not found:
        raise InputError(f"--data stdlib: this Python keeps no source of its standard library in {root}")


def _file_documents(path: Path) -> Iterator[bytes]:
    """The documents of one text file, UTF-8: of a .txt between document marks, of the others one a row ("text")."""
    if path.suffix == ".txt":
        content = path.read_bytes()
        _check_utf8(content, path)
        yield from (document for document in content.split(DOCUMENT_MARK) if document.strip())
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json_text(line, f"{path}, line {number}")
    else:
        import pyarrow.lib
        import pyarrow.parquet

        try:
            column = pyarrow.parquet.read_table(path, columns=["text"])["text"]
        except (pyarrow.lib.ArrowException, KeyError) as error:
            raise InputError(f"{path}: not a parquet file with a column 'text': {first_line(error)}") from error
        yield from (str(row).encode() for row in column.to_pylist() if row)


def _check_utf8(content: bytes, path: Path) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error


def _json_text(line: bytes, where: str) -> bytes:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or brackets without end
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError(f"{where}: no string under 'text'")
    return row["text"].encode("utf-8", "replace")


def _hub_documents(name: str) -> Iterator[bytes]:
    """The column "text" of the training split of a data set, by its name on the hub or its local folder."""
    import datasets

    _quiet_hub()
    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:  # the library raises many kinds; each means that there is no such data here
        raise InputError(f"--data hf:{name} could not be loaded: {first_line(error)}") from error
    if "text" not in (rows.column_names or []):
        raise InputError(f"--data hf:{name} has no column 'text', only {', '.join(rows.column_names or [])}")
    for row in rows:
        if not isinstance(row["text"], str | None):
            raise InputError(f"--data hf:{name} has a column 'text' of {type(row['text']).__name__}, not of text")
        if row["text"]:
            yield row["text"].encode("utf-8", "replace")


def _automata(name: str) -> Corpus:
    """Trajectories of cellular automata, those for validation of rules that no training sequence has."""
    automaton = Automaton.named(name)
    train, val = (
        trajectories(automaton, count, stream=stream).reshape(-1)
        for stream, count in enumerate((automaton.rules, max(1, round(VALIDATION_SHARE * automaton.rules))))
    )
    return Corpus(
        name=name,
        train=train,
        val=val,
        vocab_size=automaton.vocab_size,
        byte_lengths=None,
        digest=_digest("patches", [train], [val]),
        record=automaton.tokens_a_sequence,
        context=automaton.tokens_a_grid,
    )


# --- files and folders -----------------------------------------------------------------------------------------------


def _from_file(path: Path, tokenizer: Tokenizer) -> Corpus:
    if path.suffix == ".bin":
        _require_gpt2(path, tokenizer)
        tokens = read_shard(path, GPT2_VOCAB)
        at = _document_start(tokens, int(len(tokens) * (1 - VALIDATION_SHARE)))
        return _token_corpus(path.name, [tokens[:at]], [tokens[at:]], None)
    _require_text(path)
    return _from_documents(path.name, _file_documents(path), tokenizer)


def _from_folder(path: Path, tokenizer: Tokenizer) -> Corpus:
    """Files with `train` in their name are for training, files with `val` for validation."""
    files = sorted(file for file in path.iterdir() if file.suffix in (*TEXT_SUFFIXES, ".bin"))
    val = [file for file in files if _has_word(file, "val")]
    train = [file for file in files if _has_word(file, "train") and file not in val]
    if not train or not val:
        missing = "train" if not train else "val"
        raise InputError(f"{path}: no .txt, .jsonl, .parquet or .bin file with '{missing}' in its name")
    kinds = {file.suffix == ".bin" for file in train + val}
    if len(kinds) > 1:
        raise InputError(f"{path}: text and token shards are mixed")
    if kinds == {True}:
        _require_gpt2(path, tokenizer)
        return _from_shards(path.name, train, val, byte_lengths=None)
    train_documents, val_documents = ([d for file in part for d in _file_documents(file)] for part in (train, val))
    return _encoded(path.name, train_documents, val_documents, tokenizer)


def _has_word(file: Path, start: str) -> bool:
    """Whether a word of the file's name begins with `start`: not "val" in "retrieval_train.txt"."""
    return any(word.startswith(start) for word in re.findall("[a-z]+", file.stem.lower()))


def _from_shards(name: str, train: list[Path], val: list[Path], byte_lengths: NDArray[np.int64] | None) -> Corpus:
    train_tokens, val_tokens = ([read_shard(path, GPT2_VOCAB) for path in paths] for paths in (train, val))
    return _token_corpus(name, train_tokens, val_tokens, byte_lengths)


def _token_corpus(name: str, train: list[Tokens], val: list[Tokens], byte_lengths: NDArray[np.int64] | None) -> Corpus:
    return Corpus(
        name=name,
        train=train[0] if len(train) == 1 else np.concatenate(train),
        val=val[0] if len(val) == 1 else np.concatenate(val),
        vocab_size=GPT2_VOCAB,
        byte_lengths=byte_lengths,
        digest=_digest("gpt2", train, val),
    )


def _document_start(tokens: Tokens, near: int) -> int:
    """The last start of a document in the twentieth of the tokens before `near`; `near` itself if there is none."""
    first = near - int(len(tokens) * VALIDATION_SHARE)
    starts = np.flatnonzero(tokens[first : near + 1] == GPT2_VOCAB - 1)
    return first + int(starts[-1]) if len(starts) and first + starts[-1] > 0 else near


def _require_gpt2(path: Path, tokenizer: Tokenizer) -> None:
    if tokenizer.name != "gpt2":
        raise InputError(f"{path} holds GPT-2 tokens: --tokenizer {tokenizer.name} cannot read it")


def _require_text(path: Path) -> None:
    if path.suffix not in TEXT_SUFFIXES:
        raise InputError(f"{path}: unknown kind of file; expected .txt, .jsonl, .parquet or .bin")


def _fetch_fineweb(shards: int) -> tuple[list[Path], list[Path]]:
    """Training and validation shards from the hub, through its local cache."""
    from huggingface_hub import hf_hub_download

    _quiet_hub()
    names = [f"fineweb_train_{i:06d}.bin" for i in range(1, shards + 1)] + ["fineweb_val_000000.bin"]
    try:
        paths = [Path(hf_hub_download(FINEWEB_REPO, name, repo_type="dataset")) for name in names]
    except Exception as error:  # HTTP, file-system and offline errors of several libraries: all mean "not fetched"
        raise InputError(f"--data fineweb10b could not be fetched from the hub: {first_line(error)}") from error
    return paths[:-1], paths[-1:]


def _gpt2_byte_lengths() -> NDArray[np.int64] | None:
    """Byte lengths of GPT-2's tokens, or None with a note: the tokens are there even if the vocabulary is not."""
    try:
        return Tokenizer("gpt2").byte_lengths()
    except InputError as error:
        print(f"note: no bits per byte: {error}", file=sys.stderr)
        return None


def _quiet_hub() -> None:
    """Its client reports every retry as a warning; what a user needs is the one line at the end."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


def _digest(tokenizer: str, train: list[Tokens], val: list[Tokens]) -> str:
    """SHA-256 of the tokenizer's name and of both streams, however they are cut into shards."""
    digest = hashlib.sha256(tokenizer.encode())
    for part in (train, val):
        digest.update(f"|{sum(len(tokens) for tokens in part)}|".encode())
        for tokens in part:
            digest.update(np.ascontiguousarray(tokens, "<u2").data)
    return digest.hexdigest()
