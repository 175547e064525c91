"""Sources: what a file or folder is, decided once by looking, and every way not to be one by its name."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ngpt.config import DataConfig
from ngpt.data.corpus import Corpus, load_corpus
from ngpt.data.shards import write_shard
from ngpt.errors import InputError
from ngpt.presets import default_tokenizer
from ngpt.sources import Stamp, changed_file, look, source_of, words_of

TEXT = "".join(f"line {i} of größer text\n" for i in range(200))
TOKENS = np.arange(900, dtype=np.uint16)


def load(data: str | Path) -> Corpus:
    return load_corpus(DataConfig(data=str(data)))


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": [TEXT]}), path)


def lines(path: Path) -> None:
    path.write_text(json.dumps({"id": 0, "text": TEXT}) + "\n")


def text(path: Path) -> None:
    path.write_text(TEXT, encoding="utf-8")


def shard(path: Path) -> None:
    write_shard(path, TOKENS)


# --- files -----------------------------------------------------------------------------------------------------------

FORMATS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "text": (text, ["README.md", "enwik8", "a.py", "a.csv", "a.txt", "a.TXT", "a.text", "a b", "a.json", "train.md"]),
    "JSON lines": (lines, ["a.jsonl", "a.json", "a.ndjson", "a"]),
    "Parquet": (parquet, ["a.parquet", "a", "a.txt", "a.jsonl", "part-0"]),
    "token shards": (shard, ["a.bin", "a", "a.txt", "a.parquet"]),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (_, names) in FORMATS.items() for name in names])
def test_the_content_tells_what_a_file_is(kind: str, name: str, tmp_path: Path) -> None:
    FORMATS[kind][0](tmp_path / name)
    assert look(tmp_path / name).format == kind
    found = load(tmp_path / name)
    assert found.found.startswith(f"{name}: {kind}")
    assert (
        (found.vocab_size == 50257) == (kind == "token shards") == (default_tokenizer(str(tmp_path / name)) == "gpt2")
    )
    if kind != "token shards":
        text(tmp_path / "same.txt")
        assert found.digest == load(tmp_path / "same.txt").digest


def test_lines_of_json_in_a_file_named_txt_are_text(tmp_path: Path) -> None:
    lines(tmp_path / "a.txt")
    assert look(tmp_path / "a.txt").format == "text"


@pytest.mark.parametrize(
    "content", ['{\n "text": "a"\n}\n', "{not JSON}\n", '["text"]\n', '{"a": 1}\n', "", "[" * 9999]
)
def test_what_only_looks_like_lines_of_json_is_text(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    assert look(tmp_path / "a.json").format == "text"


def packed(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("a.txt", TEXT)
    else:
        with tarfile.open(fileobj=stream, mode="w") as file:
            file.addfile(tarfile.TarInfo("a.txt"))
    return stream.getvalue()


def saved_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, TOKENS)
    return stream.getvalue()


FOREIGN: dict[str, bytes] = {
    "gzip": gzip.compress(TEXT.encode()), "bzip2": bz2.compress(TEXT.encode()), "xz": lzma.compress(TEXT.encode()),
    "zip": packed("zip"), "tar": packed("tar"), "NumPy": saved_array(), "UTF-16": TEXT.encode("utf-16"),
    "zstd": b"\x28\xb5\x2f\xfd and so on", "PNG": b"\x89PNG\r\n\x1a\n", "PDF": b"%PDF-1.7\n" + TEXT.encode(),
    "serialized Python object": b"\x80\x04\x95", "SQLite": b"SQLite format 3\0", "binary data": bytes(range(256)) * 9,
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.txt", "a", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_compressed_and_binary_files_are_refused_as_what_they_look_like(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FOREIGN[kind])
    reason = "line 1: not JSON" if kind == "binary data" and name == "a.jsonl" else kind
    with pytest.raises(InputError, match=reason) as caught:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


# --- folders ---------------------------------------------------------------------------------------------------------

Maker = Callable[[Path], None]
FOLDERS: dict[str, tuple[dict[str, Maker], str]] = {
    "shards of another kind beside text": ({"train.txt": text, "val.txt": text, "model.bin": shard}, "bytes"),
    "any binary beside text": (
        {"a.txt": text, "model.bin": lambda path: path.write_bytes(bytes(99)) and None},
        "bytes",
    ),
    "text beside shards": ({"train.bin": shard, "val.bin": shard, "README.md": text}, "gpt2"),
    "shards of any name": ({"a.bin": shard, "b.bin": shard}, "gpt2"),
    "shards of any suffix": ({"train": shard, "val": shard}, "gpt2"),
    "text in subfolders": ({"train/a": text, "validation/b": text}, "bytes"),
    "shards in subfolders": ({"train/a.bin": shard, "val/a.bin": shard}, "gpt2"),
    "sources": ({"train.py": text, "a/b/model.py": text, ".git/HEAD.bin": shard}, "bytes"),
    "sources of a trainer": ({"training.py": text, "validation.py": text, "model.py": text}, "bytes"),
    "several formats": ({"a.md": text, "b.jsonl": lines, "c.parquet": parquet}, "bytes"),
    "named without a suffix": ({"wiki.train.tokens": text, "wiki.valid.tokens": text}, "bytes"),
}


def fill(folder: Path, files: dict[str, Maker]) -> Path:
    for name, make in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name)
    return folder


@pytest.mark.parametrize(("files", "tokenizer"), FOLDERS.values(), ids=FOLDERS)
def test_tokenizer_and_reader_agree_on_a_folder(files: dict[str, Maker], tokenizer: str, tmp_path: Path) -> None:
    fill(tmp_path, files)
    assert default_tokenizer(str(tmp_path)) == tokenizer
    assert load(tmp_path).vocab_size == {"bytes": 257, "gpt2": 50257}[tokenizer]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train_values.txt", "train"), ("train_valuable.txt", "train"), ("retrieval_train.txt", "train"),
        ("interval-train.txt", "train"), ("TRAIN.txt", "train"), ("trainset_2.txt", "train"), ("valley.txt", ""),
        ("val.txt", "val"), ("val1.txt", "val"), ("VALID.txt", "val"), ("x_validation_000.txt", "val"),
        ("trainer.txt", ""), ("strain.txt", ""), ("évaluation.txt", ""), ("éval.txt", ""), ("wiki.valid.raw", "val"),
        ("train_val.txt", "train val"), ("validation_of_training.txt", "train val"), ("text.txt", ""),
        ("constrain", ""),
    ],
)  # fmt: skip
def test_words_of_names(name: str, words: str) -> None:
    assert words_of(Path(name)) == set(words.split())


def test_a_file_of_training_values_is_for_training(tmp_path: Path) -> None:
    fill(tmp_path, {"train_values.txt": text, "val.txt": lambda path: path.write_text("other text " * 99) and None})
    source = source_of(str(tmp_path))
    assert [file.path.name for file in source.train] == ["train_values.txt"]
    assert [file.path.name for file in source.val] == ["val.txt"]


def test_a_folder_of_sources_is_every_file_below_it(tmp_path: Path) -> None:
    for i in range(40):
        fill(tmp_path, {f"{'ab'[i % 2]}/deep/m{i}.py": lambda path, i=i: path.write_text(f"{i} {TEXT[:999]}") and None})
    fill(
        tmp_path,
        {".git/config": text, "a/__pycache__/m.pyc": text, "logo.png": lambda p: p.write_bytes(FOREIGN["PNG"])},
    )
    found = load(tmp_path)
    assert np.count_nonzero(found.train == 256) + np.count_nonzero(found.val == 256) == 40
    assert "text, 40 files (1 beside not read: logo.png, a PNG image), 40 documents" in found.found


REFUSED: dict[str, tuple[dict[str, Maker], str]] = {
    "only training": ({"train.txt": text}, "with 'val' in its name, to go with train.txt"),
    "only validation": ({"x_val.bin": shard}, "with 'train' in its name, to go with x_val.bin"),
    "both words in one name": ({"train_val.txt": text, "train.txt": text}, "train_val.txt: its name says both"),
    "mixed by names": ({"train.txt": text, "val.bin": shard}, "text and token shards are mixed: train.txt and val.bin"),
    "mixed": ({"a.txt": text, "b.bin": shard}, "text and token shards are mixed: a.txt and b.bin"),
    "nothing readable": ({"a.gz": lambda path: path.write_bytes(FOREIGN["gzip"]) and None}, "a.gz looks like a gzip"),
    "named and compressed": (
        {"train.txt": text, "val.txt": lambda path: path.write_bytes(FOREIGN["gzip"]) and None}, "val.txt: .*gzip",
    ),
    "only hidden files": ({".git/config": text}, "an empty folder"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "reason"), REFUSED.values(), ids=REFUSED)
def test_folders_that_are_no_data(files: dict[str, Maker], reason: str, tmp_path: Path) -> None:
    fill(tmp_path, files)
    for ask in (load, lambda data: default_tokenizer(str(data))):
        with pytest.raises(InputError, match=reason) as caught:
            ask(tmp_path)
        assert str(tmp_path) in str(caught.value)


# --- what cannot be read ---------------------------------------------------------------------------------------------

UNREADABLE: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "absent": (lambda at: None, "absent", "no such file or folder"),
    "broken symlink": (lambda at: (at / "a").symlink_to("gone"), "a", "a broken symlink, to gone"),
    "symlink to itself": (lambda at: (at / "a").symlink_to("a"), "a", "symbolic links"),
    "broken symlink in a folder": (lambda at: (at / "a").symlink_to("gone"), ".", "a: a broken symlink, to gone"),
    "empty folder": (lambda at: None, ".", "an empty folder"),
    "folder named like a file": (lambda at: (at / "a.txt").mkdir(), "a.txt", "a.txt: an empty folder"),
    "folder for a file": (
        lambda at: ((at / "train.txt").mkdir(), text(at / "val.txt")), ".", "train.txt: an empty folder",
    ),
    "below a file": (lambda at: text(at / "a"), "a/b", "Not a directory"),
    "pipe": (lambda at: os.mkfifo(at / "a"), "a", "not a regular file"),
    "name too long": (lambda at: None, "a" * 300, "name too long"),
    "null byte": (lambda at: None, "a\0b", "null byte"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "name", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_says_why(prepare: Callable[[Path], Any], name: str, reason: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    with pytest.raises(InputError, match=reason) as caught:
        load(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("what", ["file", "folder", "file in a folder", "shard"])
def test_no_permission_is_said(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "absent" or "damaged"; root may read everything, so the refusal is made up."""
    name = "a.bin" if what == "shard" else "a"
    fill(tmp_path, {f"set/{name}": shard if what == "shard" else text})
    secret = tmp_path / "set" if what == "folder" else tmp_path / "set" / name

    def refusing(do: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Path, *rest: Any, **options: Any) -> Any:
            if Path(path) == secret:
                raise PermissionError(13, "Permission denied", str(path))
            return do(path, *rest, **options)

        return refuse

    for name in ("open", "iterdir"):
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))
    with pytest.raises(InputError, match="Permission denied") as caught:
        load(tmp_path / "set" if what in ("folder", "file in a folder") else secret)
    assert str(secret) in str(caught.value)


# --- changes ---------------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Callable[[Path], Any], str | None]] = {
    "none": (lambda at: None, None),
    "read again": (lambda at: (at / "b.txt").read_bytes(), None),
    "longer": (lambda at: (at / "b.txt").write_text(TEXT + "more"), "b.txt"),
    "as long": (lambda at: ((at / "b.txt").write_text(TEXT.upper()), os.utime(at / "b.txt", ns=(0, 0))), "b.txt"),
    "replaced": (lambda at: (text(at / "new"), (at / "new").replace(at / "b.txt")), "b.txt"),
    "gone": (lambda at: (at / "b.txt").unlink(), "b.txt"),
    "another": (lambda at: text(at / "c.txt"), "c.txt"),
}


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES)
def test_the_file_that_changed_is_named(change: Callable[[Path], Any], name: str | None, tmp_path: Path) -> None:
    fill(tmp_path, {"a.txt": text, "b.txt": text})
    files = load(tmp_path).files
    change(tmp_path)
    assert changed_file(str(tmp_path), files) == (tmp_path / name if name else None)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.bin"])
def test_a_file_that_changes_while_it_is_read_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers = {".txt": text, ".jsonl": lines, ".parquet": parquet, ".bin": shard}
    path = tmp_path / name
    makers[path.suffix](path)
    stamp = Stamp.of

    def late(read: Path) -> Stamp:
        found = stamp(read)
        os.utime(path, ns=(0, found.modified_ns + 1))
        return found

    monkeypatch.setattr(Stamp, "of", late)
    with pytest.raises(InputError, match="changed while it was read") as caught:
        load(path)
    assert str(path) in str(caught.value)
    monkeypatch.undo()
    corpus = load(path)
    corpus.require_unchanged()
    os.utime(path, ns=(0, 0))
    if name != "a.bin":  # in memory, as the digest has it
        return corpus.require_unchanged()
    with pytest.raises(InputError, match=r"a\.bin: changed while in use"):
        corpus.require_unchanged()


@pytest.mark.parametrize(("files", "read"), [
    (("training.py", "validation.py", "model.py", "README.md"), 4),
    (("training.py", "validation.py", "parts/model.py"), 3),
    (("training.py", "validation.py"), 2), (("train", "val", "README.md"), 2),
    (("train/a.py", "val/b.py", "model.py"), 2), (("wiki.train.tokens", "wiki.valid.tokens", "LICENSE"), 2),
])  # fmt: skip
def test_names_split_only_files_that_are_not_among_others_of_their_kind(
    files: tuple[str, ...], read: int, tmp_path: Path
) -> None:
    source = source_of(str(fill(tmp_path, dict.fromkeys(files, text))))
    assert len(source.read) == read and bool(source.train) == (read == 2)
