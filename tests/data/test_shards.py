"""Token shards: what is written is read, and every kind of damage is refused by the file's name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ngpt.data.shards import HEADER_BYTES, MAGIC, read_shard, write_shard
from ngpt.errors import InputError

VOCAB = 1000
TOKENS = np.random.default_rng(0).integers(0, VOCAB, 777).astype(np.uint16)


def header(index: int, value: int) -> Callable[[bytes], bytes]:
    """Set one of the header's int32 numbers."""
    return lambda content: content[: 4 * index] + value.to_bytes(4, "little", signed=True) + content[4 * index + 4 :]


def test_the_format_is_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, np.array([3, 65535, 0], np.uint16))
    expected = np.zeros(256, "<i4")
    expected[:3] = 20240520, 1, 3
    assert path.read_bytes() == expected.tobytes() + b"\x03\x00\xff\xff\x00\x00"


@pytest.mark.parametrize("count", [1, 2, 777])
def test_round_trip(tmp_path: Path, count: int) -> None:
    write_shard(tmp_path / "a.bin", TOKENS[:count])
    tokens = read_shard(tmp_path / "a.bin", VOCAB)
    np.testing.assert_array_equal(tokens, TOKENS[:count])
    assert tokens.dtype == np.uint16 and not tokens.flags.writeable


@pytest.mark.parametrize("tokens", [[-1, 5], [5, 65536], [1.5], [2.0]], ids=str)
def test_what_is_no_token_is_not_written(tmp_path: Path, tokens: list[int]) -> None:
    """It would wrap around to another token."""
    with pytest.raises(InputError, match=r"a\.bin: not written"):
        write_shard(tmp_path / "a.bin", np.array(tokens))
    assert not (tmp_path / "a.bin").exists()
    write_shard(tmp_path / "a.bin", np.array([0, 65535]))
    assert read_shard(tmp_path / "a.bin", 65536).tolist() == [0, 65535]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "truncated"),
        (lambda content: content[: HEADER_BYTES - 1], "truncated"),
        (lambda content: content[:HEADER_BYTES], "truncated"),
        (lambda content: content[:-2], "truncated"),
        (lambda content: content[:-1], "truncated"),
        (lambda content: content + b"\0\0", "damaged"),
        (lambda content: content + b"\0", "damaged"),
        (header(0, MAGIC + 1), "magic"),
        (header(0, 0), "magic"),
        (header(1, 2), "version 2"),
        (header(1, 0), "version 0"),
        (header(2, 2**31 - 1), "truncated"),
        (header(2, 776), "damaged"),
        (header(2, 0), "damaged"),
        (header(2, -1), "damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "fineweb_train_000007.bin"
    write_shard(path, TOKENS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=reason) as caught:
        read_shard(path, VOCAB)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("position", [0, 400, 776])
def test_an_id_beyond_the_vocabulary_is_refused_wherever_it_is(tmp_path: Path, position: int) -> None:
    path, tokens = tmp_path / "a.bin", TOKENS.copy()
    tokens[position] = VOCAB
    write_shard(path, tokens)
    with pytest.raises(InputError, match=f"token id {VOCAB} is beyond the vocabulary of {VOCAB}") as caught:
        read_shard(path, VOCAB)
    assert str(path) in str(caught.value)
    tokens[position] = VOCAB - 1
    write_shard(path, tokens)
    assert read_shard(path, VOCAB)[position] == VOCAB - 1
