"""Corpora: every source of text or tokens becomes a `Corpus` of training and validation tokens with a digest.

Text is split by document: the SHA-256 of a document decides whether it is for validation (one in twenty) and where it
comes in its split, so that neither file names nor the order of files matter. Duplicate documents count once. Where
that gives validation no sound share of the text, as with few documents of uneven length, the share decides instead.
"""

import dataclasses
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ngpt.config import DataConfig
from ngpt.data.batches import Windows
from ngpt.data.cellular import Automaton, trajectories
from ngpt.data.documents import checked_utf8, documents_of, hub_documents, quiet_hub
from ngpt.data.shards import read_shard
from ngpt.data.tokenizers import GPT2_VOCAB, Tokenizer, Tokens
from ngpt.errors import InputError, as_input_error, require
from ngpt.presets import default_tokenizer
from ngpt.sources import Source, Stamp, opened, source_of

VALIDATION_SHARE = 0.05
SOUND_SHARE = (0.01, 0.25)
"""Least and largest share of the text with which a split by the documents' hashes stands."""
FINEWEB_REPO = "kjj0/fineweb10B-gpt2"
"""The data set on the hub that modded-nanogpt trains on: FineWeb-10B in GPT-2 tokens."""


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
    found: str = ""
    """what the source was found to be, in a few words"""
    files: tuple[Stamp, ...] = ()
    """the files that were read, as they were then"""

    @property
    def described(self) -> list[str]:
        """Return in lines for people what was found and how much it is."""
        train, val = len(self.train), len(self.val)
        note = ["note: there are more validation tokens than training tokens"] * (val > train)
        return [f"data: {self.found}; {train:,} training and {val:,} validation tokens", *note]

    def require_unchanged(self) -> None:
        """Raise InputError, naming the file, if tokens are still read from the files and one is not as it was."""
        mapped = any(isinstance(tokens, np.memmap) for tokens in (self.train, self.val))
        for stamp in self.files if mapped else ():
            require(Stamp.of(stamp.path) == stamp, f"{stamp.path}: changed while in use: the digest is of other tokens")

    def windows(self, tokens: Tokens, seq_len: int) -> Windows:
        """Return the windows of `seq_len` inputs and targets in `train` or `val`."""
        return Windows(tokens, seq_len, self.record, self.context)


def load_corpus(config: DataConfig) -> Corpus:
    """Load the corpus that `config` names. Raises InputError in one line on anything wrong with it."""
    kind = default_tokenizer(config.data) if config.tokenizer == "auto" else config.tokenizer
    if kind == "patches":
        return _automata(config.data)
    tokenizer, source = Tokenizer(kind), source_of(config.data)
    paths: Sequence[Path] = [file.path for file in source.read]
    if source.kind == "fineweb10b":
        paths = _fetch_fineweb(config.shards)
    elif source.kind == "stdlib":
        paths = _stdlib_files()
    stamps = tuple(Stamp.of(path) for path in paths)
    if source.kind == "stdlib":
        documents = (checked_utf8(_content(path), str(path)) for path in paths)
        corpus = _from_documents("stdlib", documents, tokenizer)
    elif source.kind == "fineweb10b":
        corpus = _from_shards("fineweb10b", paths[:-1], paths[-1:], _gpt2_byte_lengths())
    elif source.kind == "hub":
        corpus = _from_documents(config.data, hub_documents(config.data), tokenizer)
    elif source.holds_tokens:
        _require_gpt2(Path(config.data), tokenizer)
        corpus = _from_token_files(source)
    else:
        corpus = _from_text_files(source, tokenizer)
    for stamp in stamps:
        require(Stamp.of(stamp.path) == stamp, f"{stamp.path}: changed while it was read")
    found = ", ".join(filter(None, [source.found, corpus.found]))
    return dataclasses.replace(corpus, found=found, files=stamps)


# --- text ------------------------------------------------------------------------------------------------------------


def _from_documents(name: str, documents: Iterable[bytes], tokenizer: Tokenizer) -> Corpus:
    given = list(documents)
    by_hash = sorted({hashlib.sha256(document).digest(): document for document in given if document}.items())
    bound = int(VALIDATION_SHARE * 2**64)
    val = [document for digest, document in by_hash if int.from_bytes(digest[-8:], "big") < bound]
    train = [document for digest, document in by_hash if int.from_bytes(digest[-8:], "big") >= bound]
    if by_hash and not (train and val):  # too few documents for one in twenty
        train, val = [document for _, document in by_hash[1:]], [by_hash[0][1]]
    if by_hash and not SOUND_SHARE[0] <= _size(val) / (_size(train) + _size(val)) <= SOUND_SHARE[1]:
        train, val = _split_by_share([document for _, document in by_hash])
    empty = sum(not document for document in given)
    repeated = len(given) - empty - len(by_hash)
    left_out = [f"{count} {what}" for count, what in ((empty, "empty"), (repeated, "repeated")) if count]
    counted = f"{len(by_hash)} document{'s' * (len(by_hash) != 1)}"
    counted += f" ({' and '.join(left_out)} left out)" if left_out else ""
    return dataclasses.replace(_encoded(name, train, val, tokenizer), found=counted)


def _size(documents: Iterable[bytes]) -> int:
    """Return the bytes of some documents with a separator each; the same split then serves both tokenizers."""
    return sum(len(document) + 1 for document in documents)


def _split_by_share(documents: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Give validation its share of the text: whole documents if some are short enough, else the longest one's end."""
    share = VALIDATION_SHARE * _size(documents)
    train: list[bytes] = []
    val: list[bytes] = []
    size = 0
    for document in documents:
        fits = size < share and size + len(document) + 1 <= 1.5 * share
        (val if fits else train).append(document)
        size += fits * (len(document) + 1)
    if size >= share / 2:
        return train, val
    longest = max(documents, key=len)
    start, end = _split_tail(longest, VALIDATION_SHARE if len(documents) == 1 else share / len(longest))
    return [start if document is longest else document for document in documents], [end]


def _split_tail(document: bytes, share: float) -> tuple[bytes, bytes]:
    """Cut one document before the last `share` of it, at the end of a line if one is near."""
    at = int(len(document) * (1 - share))
    line_end = document.find(b"\n", at, at + len(document) // 100)
    at = line_end + 1 if line_end >= 0 else at
    while 0 < at < len(document) and document[at] & 0xC0 == 0x80:  # not inside a UTF-8 character
        at += 1
    return document[:at], document[at:]


def _encoded(name: str, train: Iterable[bytes], val: Iterable[bytes], tokenizer: Tokenizer) -> Corpus:
    parts = [tokenizer.encode(train)], [tokenizer.encode(val)]
    return _token_corpus(name, *parts, tokenizer, tokenizer.byte_lengths())


def _content(path: Path) -> bytes:
    with opened(path) as file:
        return file.read()


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}") from error


def _stdlib_files() -> list[Path]:
    """Return the source files of this Python's standard library, without its tests and without installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    paths: list[Path] = []
    for folder, subfolders, files in os.walk(root, onerror=_unreadable):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        paths += [Path(folder) / file for file in files if file.endswith(".py")]
    require(bool(paths), f"--data stdlib: this Python keeps no source of its standard library in {root}")
    return paths


def _automata(name: str) -> Corpus:
    """Simulate cellular automata; the rules of validation sequences are not among those of training."""
    automaton = Automaton.named(name)
    counts = automaton.rules, max(1, round(VALIDATION_SHARE * automaton.rules))
    train, val = (trajectories(automaton, n, stream=stream).reshape(-1) for stream, n in enumerate(counts))
    return Corpus(
        name=name, train=train, val=val, vocab_size=automaton.vocab_size, byte_lengths=None,
        digest=_digest("patches", [train], [val]), record=automaton.tokens_per_sequence,
        context=automaton.tokens_per_grid, found=name,
    )  # fmt: skip


# --- files and folders -----------------------------------------------------------------------------------------------


def _from_text_files(source: Source, tokenizer: Tokenizer) -> Corpus:
    """Load files of text, split by document unless names of files say which are for validation."""
    if source.files:
        documents = (document for file in source.files for document in documents_of(file))
        return _from_documents(source.name, documents, tokenizer)
    train, val = ([d for file in part for d in documents_of(file) if d] for part in (source.train, source.val))
    return _encoded(source.name, train, val, tokenizer)


def _from_token_files(source: Source) -> Corpus:
    """Load shards; those whose names do not split them are one stream whose end is for validation."""
    if not source.files:
        train, val = ([file.path for file in part] for part in (source.train, source.val))
        return _from_shards(source.name, train, val, None)
    shards = [read_shard(file.path, GPT2_VOCAB) for file in source.files]
    tokens = shards[0] if len(shards) == 1 else np.concatenate(shards)
    at = _document_start(tokens, int(len(tokens) * (1 - VALIDATION_SHARE)))
    return _token_corpus(source.name, [tokens[:at]], [tokens[at:]], Tokenizer("gpt2"), None)


def _from_shards(
    name: str, train: Sequence[Path], val: Sequence[Path], byte_lengths: NDArray[np.int64] | None
) -> Corpus:
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


def _fetch_fineweb(shards: int) -> list[Path]:
    """Fetch the training shards, and last the validation shard, from the hub, through its local cache."""
    with as_input_error("--data fineweb10b needs the package huggingface_hub", ImportError):
        from huggingface_hub import hf_hub_download
    quiet_hub()
    names = [f"fineweb_train_{i:06d}.bin" for i in range(1, shards + 1)] + ["fineweb_val_000000.bin"]
    with as_input_error("--data fineweb10b could not be fetched from the hub", Exception):  # HTTP, disk, offline
        return [Path(hf_hub_download(FINEWEB_REPO, name, repo_type="dataset")) for name in names]


def _gpt2_byte_lengths() -> NDArray[np.int64] | None:
    """Return the byte lengths of GPT-2's tokens; None, with a note, if the vocabulary cannot be had."""
    try:
        return Tokenizer("gpt2").byte_lengths()
    except InputError as error:
        print(f"note: no bits per byte: {error}", file=sys.stderr)
        return None


def _digest(tokenizer: str, train: list[Tokens], val: list[Tokens]) -> str:
    """Return the SHA-256 of the tokenizer's name and of both streams, however they are split into shards."""
    digest = hashlib.sha256(tokenizer.encode())
    for part in (train, val):
        digest.update(f"|{sum(len(tokens) for tokens in part)}|".encode())
        for tokens in part:
            digest.update(np.ascontiguousarray(tokens, "<u2").data)
    return digest.hexdigest()
