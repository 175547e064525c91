"""Token shards in the FineWeb format of modded-nanogpt: 256 int32 (magic, version, count, zeros), then uint16 ids."""

from pathlib import Path

import numpy as np

from ngpt.data.tokenizers import Tokens
from ngpt.errors import require
from ngpt.sources import SHARD_MAGIC, opened, status_of

MAGIC = SHARD_MAGIC
VERSION = 1
HEADER_BYTES = 256 * 4


def read_shard(path: Path, vocab_size: int) -> Tokens:
    """Return the tokens of one shard, memory-mapped read-only, after checking header, length and every id.

    Raises InputError, naming the file, on a wrong magic number or version, a file that is too short or too long, or an
    id that is not below `vocab_size`.
    """
    size = status_of(path).st_size
    few = f"{size} bytes are fewer than the {HEADER_BYTES} of its header"
    require(size >= HEADER_BYTES, f"{path}: truncated shard: {few}")
    with opened(path) as file:
        magic, version, count = np.frombuffer(file.read(12), "<i4")
    require(magic == MAGIC, f"{path}: not a token shard: magic number {magic} instead of {MAGIC}")
    require(version == VERSION, f"{path}: shard version {version}; this program reads version {VERSION}")
    expected = HEADER_BYTES + 2 * int(count)
    found = f"{size} bytes where its header promises {count} tokens, {expected} bytes"
    what = "truncated" if size < expected else "damaged"
    require(count > 0 and size == expected, f"{path}: {what} shard: {found}")
    tokens: Tokens = np.memmap(path, "<u2", "r", offset=HEADER_BYTES, shape=(int(count),))
    largest = int(tokens.max())
    require(largest < vocab_size, f"{path}: token id {largest} is beyond the vocabulary of {vocab_size}")
    return tokens


def write_shard(path: Path, tokens: Tokens) -> None:
    """Write `tokens` (n,) as one shard, to convert corpora and in tests. Raises InputError if one is not a uint16."""
    fits = np.issubdtype(tokens.dtype, np.integer) and not np.any((tokens < 0) | (tokens > 65535))
    require(fits, f"{path}: not written: token ids must be whole numbers from 0 to 65535")
    header = np.array([MAGIC, VERSION, len(tokens), *[0] * 253], "<i4")
    np.concatenate([header.view("<u2"), tokens.astype("<u2")]).tofile(path)
