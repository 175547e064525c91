"""Corpora: what is read from each kind of source, how it is split, and what each kind of damage is called."""

import hashlib
import json
import os
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tokenizers import FakeGpt2

from ngpt.config import DataConfig
from ngpt.data import tokenizers
from ngpt.data.corpus import Corpus, load_corpus
from ngpt.data.shards import write_shard
from ngpt.data.tokenizers import Tokens
from ngpt.errors import InputError

MARK = "<|endoftext|>"


def load(data: str | Path, **options: Any) -> Corpus:
    return load_corpus(DataConfig(data=str(data), **options))


def documents(tokens: Tokens) -> list[str]:
    """The documents of a stream of byte tokens."""
    ends = np.flatnonzero(tokens == 256).tolist()
    assert not len(tokens) or ends[0] == 0
    cuts = zip(ends, [*ends[1:], len(tokens)], strict=True)
    return [tokens[start + 1 : end].astype(np.uint8).tobytes().decode() for start, end in cuts]


def essays(count: int, seed: int = 0) -> list[str]:
    """Distinct documents with line ends, quotes and characters of several bytes."""
    generator = random.Random(seed)
    words = ["sphere", 'a "gate"', "größer", "≤", "\n", "of", "the", "𝛼"]
    return [f"{seed}.{i} " + " ".join(generator.choices(words, k=generator.randint(5, 40))) for i in range(count)]


def write_rows(path: Path, texts: list[str], column: str = "text") -> Path:
    """Write texts as .txt, .jsonl or .parquet, by the name's end."""
    if path.suffix == ".txt":
        path.write_text(MARK.join(texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"id": 1, column: text}) for text in texts) + "\n", encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"id": list(range(len(texts))), column: texts}), path)
    return path


def ids(count: int, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(0, 50256, count).astype(np.uint16)


def check_split(found: Corpus, texts: list[str]) -> None:
    """Every distinct document is in one split, once; neither split is empty; about one in twenty is for validation."""
    train, val = documents(found.train), documents(found.val)
    assert train and val
    assert sorted(train + val) == sorted({text for text in texts if text.strip()})
    assert len(val) <= max(1, 0.2 * len(texts))


# --- the standard library --------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small standard library with everything in it that is not to be read."""
    root = tmp_path / "python3"
    for i, text in enumerate(essays(80)):
        file = root / ["", "json", "email/mime", "config"][i % 4] / f"m{i}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    unwanted = ["site-packages/numpy/a.py", "dist-packages/b.py", "test/c.py", "json/tests/d.py", "email/test/e.py",
                "idlelib/idle_test/f.py", "__pycache__/g.py", "json/h.txt", "json/i.pyc"]  # fmt: skip
    for name in unwanted:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"unwanted {name}")
    (root / "empty.py").touch()
    (root / "json/copy_of_m0.py").write_bytes((root / "m0.py").read_bytes())
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    return root


def test_stdlib_holds_every_source_file_once_and_no_tests(library: Path) -> None:
    found = load("stdlib")
    check_split(found, essays(80))
    assert found.vocab_size == 257 and found.name == "stdlib"


def test_stdlib_does_not_depend_on_names_or_listing_order(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = load("stdlib").digest
    walk = os.walk

    def backwards(root: Path, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, subfolders, files in walk(root, **options):
            subfolders.sort(reverse=True)
            yield folder, subfolders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert load("stdlib").digest == digest
    (library / "m0.py").rename(library / "json/z.py")
    assert load("stdlib").digest == digest
    (library / "json/z.py").write_text("changed")
    (library / "json/copy_of_m0.py").unlink()
    assert load("stdlib").digest != digest


def test_this_stdlib() -> None:
    found, again = load("stdlib"), load("stdlib")
    assert found.digest == again.digest and len(found.digest) == 64
    assert len(found.train) > 1_000_000 and len(found.val) > 10_000
    train, val = found.train.tobytes(), found.val.tobytes()
    for module in (json, random, hashlib):
        text = np.frombuffer(Path(str(module.__file__)).read_bytes(), np.uint8).astype(np.uint16).tobytes()
        assert (text in train) != (text in val)


def test_stdlib_without_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(InputError, match="keeps no source") as caught:
        load("stdlib")
    assert str(tmp_path) in str(caught.value)


# --- text files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
@pytest.mark.parametrize("count", [10, 30, 100])
def test_a_file_of_documents_is_split_by_document(tmp_path: Path, kind: str, count: int) -> None:
    texts = essays(count)
    found = load(write_rows(tmp_path / f"a.{kind}", [*texts, texts[0], ""]))
    check_split(found, texts)
    assert found.digest == load(write_rows(tmp_path / f"b.{kind}", texts[::-1])).digest


def test_all_kinds_of_file_give_the_same_corpus(tmp_path: Path) -> None:
    digests = {load(write_rows(tmp_path / f"a.{kind}", essays(30))).digest for kind in ("txt", "jsonl", "parquet")}
    assert len(digests) == 1


ONE_DOCUMENT = {
    "lines": "a line of text\n" * 100,
    "one long line": "abcdefghij" * 150,
    "characters of several bytes": "x" + "𝛼" * 301,
    "the last line end near the end": "x" * 1500 + "\nthe end",
    "closing line end": "x" * 1500 + "\n",
}


@pytest.mark.parametrize("text", ONE_DOCUMENT.values(), ids=ONE_DOCUMENT)
def test_one_document_is_cut_near_its_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = load(tmp_path / "a.txt")
    (train,), (val,) = documents(found.train), documents(found.val)  # decoding fails inside a character
    assert train + val == text
    assert 0.025 < len(val) / len(text) < 0.06
    if text.startswith("a line"):
        assert train.endswith("\n")


def test_a_folder_is_split_by_its_files_names(tmp_path: Path) -> None:
    texts = essays(9)
    write_rows(tmp_path / "b_train_2.txt", texts[3:5])
    write_rows(tmp_path / "a_Train.jsonl", texts[:3])
    write_rows(tmp_path / "VAL_1.parquet", texts[5:7])
    write_rows(tmp_path / "validation.jsonl", texts[7:])
    (tmp_path / "README.md").write_text("training and validation files")
    found = load(tmp_path)
    assert documents(found.train) == texts[:5] and documents(found.val) == texts[5:]


@pytest.mark.parametrize("name", ["retrieval_train.txt", "train_interval.txt"])
def test_val_inside_another_word_does_not_make_a_training_file_validation(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, ["for training"])
    write_rows(tmp_path / "val.txt", ["for validation"])
    found = load(tmp_path)
    assert (documents(found.train), documents(found.val)) == (["for training"], ["for validation"])


def hub(name: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Corpus:
    """Load `hf:name` with a cache of its own and no network."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    return load(f"hf:{name}")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_hf_reads_a_local_folder(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    write_rows(tmp_path / f"set/train.{kind}", [*essays(40), ""])
    found = hub(str(tmp_path / "set"), monkeypatch, tmp_path / "cache")
    check_split(found, essays(40))
    assert found.digest == load(write_rows(tmp_path / "a.txt", essays(40))).digest


@pytest.mark.parametrize("problem", ["unknown name", "another column", "numbers"])
def test_hf_without_text_is_refused(tmp_path: Path, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "none" if problem == "unknown name" else str(tmp_path / "set")
    (tmp_path / "set").mkdir()
    if problem == "another column":
        write_rows(tmp_path / "set/train.jsonl", essays(3), column="content")
    if problem == "numbers":
        (tmp_path / "set/train.jsonl").write_text('{"text": 1}\n{"text": 2}\n')
    with pytest.raises(InputError, match=f"--data hf:{name}") as caught:
        hub(name, monkeypatch, tmp_path / "cache")
    assert "\n" not in str(caught.value)


# --- token shards ----------------------------------------------------------------------------------------------------


def test_a_folder_of_shards_in_the_order_of_their_names(tmp_path: Path) -> None:
    parts = {"x_train_000002": ids(50, 2), "x_train_000001": ids(70, 1), "x_val_000000": ids(30, 3)}
    for name, tokens in parts.items():
        write_shard(tmp_path / f"{name}.bin", tokens)
    found = load(tmp_path)
    np.testing.assert_array_equal(found.train, np.concatenate([ids(70, 1), ids(50, 2)]))
    np.testing.assert_array_equal(found.val, ids(30, 3))
    assert found.vocab_size == 50257 and found.byte_lengths is None


@pytest.mark.parametrize(
    ("separators", "at"),
    [([], 950), ([0], 950), ([0, 400, 930, 960], 930), ([0, 950], 950), ([0, 1], 950), ([3], 950)],
)
def test_a_single_shard_is_cut_at_a_document_near_its_end(tmp_path: Path, separators: list[int], at: int) -> None:
    tokens = ids(1000)
    tokens[separators] = 50256
    write_shard(tmp_path / "a.bin", tokens)
    found = load(tmp_path / "a.bin")
    np.testing.assert_array_equal(np.concatenate([found.train, found.val]), tokens)
    assert len(found.train) == at


def fineweb(folder: Path, monkeypatch: pytest.MonkeyPatch, shards: int, **sizes: int) -> tuple[Corpus, list[str]]:
    """Load fineweb10b from a hub that hands out the shards in `folder`; also the names that it was asked for."""
    import huggingface_hub

    asked: list[str] = []

    def download(repo: str, name: str, *, repo_type: str) -> str:
        assert (repo, repo_type) == ("kjj0/fineweb10B-gpt2", "dataset")
        asked.append(name)
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(tokenizers, "_gpt2", FakeGpt2)
    return load("fineweb10b", shards=shards), asked


def write_fineweb(folder: Path, shards: int) -> list[Tokens]:
    parts = [ids(100 + i, i) for i in range(shards + 1)]
    for i, tokens in enumerate(parts):
        write_shard(folder / (f"fineweb_train_{i:06d}.bin" if i else "fineweb_val_000000.bin"), tokens)
    return parts


@pytest.mark.parametrize("shards", [1, 3])
def test_fineweb_is_the_first_shards_of_the_hub(tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    val, *train = write_fineweb(tmp_path, shards)
    found, asked = fineweb(tmp_path, monkeypatch, shards)
    assert sorted(asked) == [f"fineweb_train_{i:06d}.bin" for i in range(1, shards + 1)] + ["fineweb_val_000000.bin"]
    np.testing.assert_array_equal(found.train, np.concatenate(train))
    np.testing.assert_array_equal(found.val, val)
    assert found.byte_lengths is not None and found.byte_lengths[[0, 6, 50256]].tolist() == [1, 7, 0]


def test_a_damaged_fineweb_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fineweb(tmp_path, 2)
    path = tmp_path / "fineweb_train_000002.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="fineweb_train_000002.bin: truncated"):
        fineweb(tmp_path, monkeypatch, 2)


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), TimeoutError(), OSError(28, "No space left")])
def test_an_unreachable_hub_is_one_clear_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match="--data fineweb10b could not be fetched from the hub: .+") as caught:
        load("fineweb10b")
    assert "\n" not in str(caught.value)


# --- digests ---------------------------------------------------------------------------------------------------------


def shard_digest(folder: Path, train: list[list[int]], val: list[int]) -> str:
    folder.mkdir()
    for i, tokens in enumerate(train):
        write_shard(folder / f"train_{i}.bin", np.array(tokens, np.uint16))
    write_shard(folder / "val.bin", np.array(val, np.uint16))
    return load(folder).digest


def test_the_digest_is_of_the_tokens_however_they_are_cut_into_shards(tmp_path: Path) -> None:
    whole = shard_digest(tmp_path / "a", [[1, 2, 3, 4]], [5, 6])
    assert whole == shard_digest(tmp_path / "b", [[1], [2, 3, 4]], [5, 6])


BAR = int.from_bytes(b"||", "little")
"""A token whose bytes could be taken for a separator."""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (([1, 2, 3, 4], [5, 6]), ([1, 2, 4, 3], [5, 6])),
        (([1, 2, 3, 4], [5, 6]), ([1, 2, 3], [4, 5, 6])),
        (([1, 2, 3, 4], [5, 6]), ([1, 2, 3, 4], [5, 6, 0])),
        (([1, 2, 3, 4], [5, 6]), ([5, 6], [1, 2, 3, 4])),
        (([BAR], [BAR, BAR]), ([BAR, BAR], [BAR])),
    ],
)
def test_the_digest_changes_with_the_tokens(
    tmp_path: Path, one: tuple[list[int], list[int]], other: tuple[list[int], list[int]]
) -> None:
    digests = {shard_digest(tmp_path / name, [train], val) for name, (train, val) in (("a", one), ("b", other))}
    assert len(digests) == 2


def test_the_digest_changes_with_the_text_and_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_gpt2", FakeGpt2)
    texts = essays(10)
    path = write_rows(tmp_path / "a.txt", texts)
    digests = {load(path).digest, load(path, tokenizer="gpt2").digest}
    digests.add(load(write_rows(tmp_path / "b.txt", [texts[0] + "!", *texts[1:]])).digest)
    digests.add(load(write_rows(tmp_path / "c.txt", texts[1:])).digest)
    assert len(digests) == 4
    assert load(path, tokenizer="bytes").digest == load(path).digest


# --- what is refused -------------------------------------------------------------------------------------------------

GOOD = '{"text": "a"}\n'
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "not UTF-8": ("a.txt", "ab\u00e4cd".encode() + b"\xff and so on", r"a\.txt: not UTF-8 at byte 6"),
    "cut inside a character": ("a.txt", "ab\u00e4".encode()[:-1], r"a\.txt: not UTF-8 at byte 2"),
    "bad JSON": ("a.jsonl", (GOOD + "\n" + GOOD + "{oops\n").encode(), r"a\.jsonl, line 4: not JSON"),
    "JSON not UTF-8": ("a.jsonl", GOOD.encode() + b'{"text": "\xff"}', r"a\.jsonl, line 2: not UTF-8 at byte 10"),
    "JSON of another encoding": ("a.jsonl", GOOD.encode("utf-16"), r"a\.jsonl: looks like UTF-16 text"),
    "no text": ("a.jsonl", (GOOD + '{"content": "b"}').encode(), r"a\.jsonl, line 2: no string under 'text'"),
    "text is a number": ("a.jsonl", b'{"text": 3}', r"a\.jsonl, line 1: no string under 'text'"),
    "row is a list": ("a.jsonl", b'["text"]', r"a\.jsonl, line 1: no string under 'text'"),
    "not parquet": ("a.parquet", b"PAR1 and so on", r"a\.parquet: not a parquet file with a column 'text'"),
    "empty parquet": ("a.parquet", b"", r"a\.parquet: not a parquet file with a column 'text'"),
    "text as a shard": ("a.bin", b"text", r"a\.bin: truncated shard"),
    "folder with no training file": ("set/val.txt", b"text", r"set: no .* file with 'train' in its name"),
    "folder with no validation file": ("set/train.txt", b"text", r"set: no .* file with 'val' in its name"),
}


@pytest.mark.parametrize(("name", "content", "reason"), REFUSED.values(), ids=REFUSED)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        load(path.parent if path.parent != tmp_path else path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_parquet_without_the_column_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", essays(3), column="content")
    with pytest.raises(InputError, match="not a parquet file with a column 'text'") as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def mixed(folder: Path) -> None:
    write_shard(folder / "train.bin", ids(30))
    write_rows(folder / "val.txt", ["text"])


@pytest.mark.parametrize(
    ("prepare", "options", "reason"),
    [
        (lambda folder: None, {}, "an empty folder"),
        (mixed, {}, "text and token shards are mixed"),
        (lambda folder: write_fineweb(folder, 1), {"tokenizer": "bytes"}, "--tokenizer bytes cannot read it"),
    ],
)
def test_bad_folders_are_named(
    tmp_path: Path, prepare: Callable[[Path], object], options: dict[str, Any], reason: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(InputError, match=reason) as caught:
        load(tmp_path, **options)
    assert str(tmp_path) in str(caught.value)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder") as caught:
        load(tmp_path / "absent.txt")
    assert str(tmp_path / "absent.txt") in str(caught.value)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_an_empty_file_is_an_empty_corpus_or_refused(tmp_path: Path, kind: str) -> None:
    """The trainer refuses what holds no window (tests/training/test_trainer.py)."""
    path = write_rows(tmp_path / f"a.{kind}", [])
    try:
        found = load(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert len(found.train) == len(found.val) == 0
