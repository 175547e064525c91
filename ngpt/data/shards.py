"""Token shards in the FineWeb format of modded-nanogpt: 256 int32 (magic, version, count, zeros), then uint16 ids."""

from pathlib import Path

import numpy as np

from ngpt.data.tokenizers import Tokens
from ngpt.errors import InputError

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4


def read_shard(path: Path, vocab_size: int) -> Tokens:
    """The tokens of one shard, memory-mapped read-only, after checking header, length and every id.

    Raises InputError, naming the file, on a wrong magic number or version, a truncated or overlong file, or an id
    that is not below `vocab_size`.
    """
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise InputError(f"{path}: truncated shard: {size} bytes are fewer than the {HEADER_BYTES} of its header")
    magic, version, count = np.fromfile(path, "<i4", 3)
    if magic != MAGIC:
        raise InputError(f"{path}: not a token shard: magic number {magic} instead of {MAGIC}")
    if version != VERSION:
        raise InputError(f"{path}: shard version {version}; this program reads version {VERSION}")
    expected = HEADER_BYTES + 2 * int(count)
    if count <= 0 or size != expected:
        what = "truncated" if size < expected else "damaged"
        raise InputError(
            f"{path}: {what} shard: {size} bytes where its header promises {count} tokens, {expected} bytes"
        )
    tokens: Tokens = np.memmap(path, "<u2", "r", offset=HEADER_BYTES, shape=(int(count),))
    largest = int(tokens.max())
    if largest >= vocab_size:
        raise InputError(f"{path}: token id {largest} is beyond the vocabulary of {vocab_size}")
    return tokens


def write_shard(path: Path, tokens: Tokens) -> None:
    """Write `tokens` (n,) as one shard; for converting corpora and for tests."""
    header = np.zeros(256, "<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    with path.open("wb") as file:
        file.write(header.tobytes())
        file.write(tokens.astype("<u2").tobytes())
