"""The validation split: a share of the text, however long its documents are, and as it was where it was sound."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_corpus import MARK, documents, essays, write_rows
from test_tokenizers import FakeGpt2

from ngpt.config import DataConfig
from ngpt.data import tokenizers
from ngpt.data.corpus import Corpus, load_corpus


def load(path: Path, tokenizer: str = "bytes") -> Corpus:
    return load_corpus(DataConfig(data=str(path), tokenizer=tokenizer))  # type: ignore[arg-type]


def text(size: int, seed: int = 0) -> str:
    """Lines of text of about `size` characters."""
    generator = random.Random(seed)
    line = " ".join(generator.choices(["sphere", "a gate", "größer", "of", "the"], k=9)) + "\n"
    return (f"{seed} {line}" * (size // len(line) + 1))[:size]


LENGTHS: dict[str, list[int]] = {
    "a line and a book": [27, 116_000],
    "a book and a line": [116_000, 27],
    "two books": [50_000, 50_000],
    "three": [9_000, 30_000, 20_000],
    "five of one length": [4_000] * 5,
    "many lines and a book": [*[50] * 200, 200_000],
    "a few lines and two books": [40, 40, 40, 60_000, 90_000],
    "falling": [100_000 // 2**i for i in range(12)],
    "one": [30_000],
    "characters": [1] * 2 + [3_000],
}


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_validation_is_a_share_of_the_tokens(lengths: list[int], kind: str, tmp_path: Path) -> None:
    """However the hashes of the documents fall."""
    for seed in range(6):
        texts = [text(size, seed=100 * seed + i) for i, size in enumerate(lengths)]
        found = load(write_rows(tmp_path / f"a.{kind}", texts))
        share = len(found.val) / (len(found.train) + len(found.val))
        assert 0.01 <= share <= 0.25, (share, seed)
        train, val = documents(found.train), documents(found.val)
        cut = [one for one in train + val if one not in texts]  # at most one document, in two
        assert not cut or (len(cut) == 2 and "".join(cut) in texts)
        assert sum(map(len, train + val)) == sum(map(len, set(texts)))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [30, 200])
def test_documents_of_any_uneven_lengths(count: int, seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    texts = [text(int(10 * generator.paretovariate(0.6)) % 10**6, seed=i) for i in range(count)]
    found = load(write_rows(tmp_path / "a.jsonl", texts))
    assert 0.01 <= len(found.val) / (len(found.train) + len(found.val)) <= 0.25


def test_the_split_does_not_depend_on_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_gpt2", FakeGpt2)
    path = write_rows(tmp_path / "a.txt", [text(300), text(40_000, seed=1)])
    as_bytes, as_gpt2 = load(path), load(path, "gpt2")
    (one,), (other,) = documents(as_bytes.val), [as_gpt2.val.tolist()]
    assert other == [50256, *map(ord, one)]


def by_hash(texts: list[str]) -> tuple[list[bytes], list[bytes]]:
    """The split that published results have: one document in twenty, by the last 8 bytes of its hash."""
    ordered = sorted({hashlib.sha256(one.encode()).digest(): one.encode() for one in texts}.items())
    val = [one for digest, one in ordered if int.from_bytes(digest[-8:], "big") < int(0.05 * 2**64)]
    return [one for _, one in ordered if one not in val], val


def digest(train: list[bytes], val: list[bytes]) -> str:
    streams = [np.array([token for one in part for token in (256, *one)], "<u2") for part in (train, val)]
    hashed = hashlib.sha256(b"bytes")
    for stream in streams:
        hashed.update(b"|%d|" % len(stream) + stream.tobytes())
    return hashed.hexdigest()


@pytest.mark.parametrize("count", [60, 100, 500])
def test_a_sound_split_by_hashes_stays(count: int, tmp_path: Path) -> None:
    texts = essays(count)
    train, val = by_hash(texts)
    assert 0.01 < len(b"".join(val)) / len(b"".join(train + val)) < 0.25
    assert load(write_rows(tmp_path / "a.txt", texts)).digest == digest(train, val)


PUBLISHED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one document": (lambda at: write_rows(at / "a.txt", [text(40_000)]), "fadc18e6fd08f0c4"),
    "ten": (lambda at: write_rows(at / "a.jsonl", essays(10)), "029e55a0b049f153"),
    "a thousand": (lambda at: write_rows(at / "a.parquet", essays(1000)), "29d34f48fe885e96"),
}


@pytest.mark.parametrize(("make", "expected"), PUBLISHED.values(), ids=PUBLISHED)
def test_digests_are_those_of_earlier_versions(make: Callable[[Path], Path], expected: str, tmp_path: Path) -> None:
    assert load(make(tmp_path)).digest[:16] == expected


def test_the_mark_between_documents_counts_in_every_file_of_text(tmp_path: Path) -> None:
    texts = essays(40)
    (tmp_path / "corpus").write_text(MARK.join(texts), encoding="utf-8")
    assert load(tmp_path / "corpus").digest == load(write_rows(tmp_path / "a.txt", texts)).digest
