"""Documents: every door to text makes the same checks, and says which file and which row."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ngpt.config import DataConfig
from ngpt.data.corpus import Corpus, load_corpus
from ngpt.data.documents import documents_of, hub_documents
from ngpt.errors import InputError
from ngpt.sources import look

GOOD = ["one", "two größer", "three"]


class Rows:
    """What this project uses of a data set of the hub."""

    def __init__(self, column: list[Any], name: str = "text") -> None:
        self.column, self.column_names = column, [name, "id"]

    def select_columns(self, names: list[str]) -> "Rows":
        assert names == ["text"]
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"text": value, "id": 0} for value in self.column)


def fake(monkeypatch: pytest.MonkeyPatch, load: Any, configs: list[str] | None = None) -> None:
    """Put another module in the place of `datasets`."""
    module = SimpleNamespace(load_dataset=load, get_dataset_config_names=lambda name: configs or [])
    monkeypatch.setitem(sys.modules, "datasets", module)


def through(door: str, column: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The documents of a column `text` that comes in through a door."""
    if door == "hf":
        fake(monkeypatch, lambda *_, **__: Rows(column))
        return list(hub_documents("hf:some/name"))
    path = folder / f"a.{door}"
    if door == "jsonl":
        path.write_text("".join(json.dumps({"text": value}) + "\n" for value in column))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    return list(documents_of(look(path)))


DOORS = ["jsonl", "parquet", "hf"]
WHERE = {"jsonl": r"a\.jsonl, line {}", "parquet": r"a\.parquet, row {}", "hf": "--data hf:some/name, row {}"}


@pytest.mark.parametrize("door", DOORS)
def test_rows_without_text_are_empty_documents(door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = through(door, ["one", None, "", " \n\t", "two größer"], tmp_path, monkeypatch)
    assert found == [b"one", b"", b"", b"", "two größer".encode()]
    assert not any(through(door, [None, None], tmp_path, monkeypatch))


VALUES: dict[str, Any] = {
    "bytes": "caf\u00e9".encode(), "whole numbers": 3, "numbers": 1.5, "truth": True, "lists": ["a"],
    "rows": {"a": "b"},
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_what_is_not_text_is_refused(door: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if door == "jsonl" and isinstance(value, bytes):
        pytest.skip("JSON has no bytes")
    place = r"a\.parquet: its column 'text' holds" if door == "parquet" else WHERE[door].format(1) + ": no string under"
    with pytest.raises(InputError, match=place) as caught:
        through(door, [value, value], tmp_path, monkeypatch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("door", ["jsonl", "hf"])
@pytest.mark.parametrize("text", ["\ud800", "a\udfff b", "\udc80\ud83d"], ids=ascii)
def test_half_a_surrogate_pair_is_refused(
    door: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=WHERE[door].format(3) + ".* half a surrogate pair"):
        through(door, ["good", "\U0001f600", text], tmp_path, monkeypatch)


@pytest.mark.parametrize("bad", [b"\xff", b"ab\xe4", b"\xed\xa0\x80", b"\xc0\x80"], ids=ascii)
def test_what_is_not_utf8_is_refused(bad: bytes, tmp_path: Path) -> None:
    """The third is half a surrogate pair, the fourth an overlong zero."""
    (tmp_path / "a.txt").write_bytes(b"a line\nanother " + bad)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "' + bad + b'"}\n')
    buffers = pyarrow.array([b"good", bad], pyarrow.binary()).buffers()
    column = pyarrow.StringArray.from_buffers(2, buffers[1], buffers[2])
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    for name, place in (("txt", "byte .*, in line 2"), ("jsonl", "line 2: not UTF-8"), ("parquet", "row 2: not UTF-8")):
        with pytest.raises(InputError, match=rf"a\.{name}.*{place}"):
            list(documents_of(look(tmp_path / f"a.{name}")))


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), "dictionary"], ids=str)
def test_every_type_of_text_in_parquet_is_read(kind: Any, tmp_path: Path) -> None:
    plain = pyarrow.array([*GOOD, None, *GOOD])
    column = plain.dictionary_encode() if kind == "dictionary" else plain.cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet", row_group_size=2)
    expected = [text.encode() for text in GOOD]
    assert list(documents_of(look(tmp_path / "a.parquet"))) == [*expected, b"", *expected]


@pytest.mark.parametrize("door", DOORS)
def test_a_row_or_table_without_text_names_what_there_is(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{door}"
    if door == "jsonl":
        path.write_text('{"text": "a"}\n{"content": "b"}\n')
    elif door == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"content": ["a"]}), path)
    fake(monkeypatch, lambda *_, **__: Rows(["a"], "content"))
    with pytest.raises(InputError, match="'text', only content") as caught:
        list(hub_documents("hf:some/name") if door == "hf" else documents_of(look(path)))
    assert ("some/name" if door == "hf" else str(path)) in str(caught.value)


def test_a_damaged_parquet_file_is_named_wherever_the_damage_is(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.parquet", tmp_path / "a.parquet"
    texts = [f"{i} " + "of the sphere " * 9 for i in range(500)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), whole, use_dictionary=False)
    content, refused = whole.read_bytes(), 0
    for at in range(4, len(content), len(content) // 40):
        path.write_bytes(content[:at] + bytes(byte ^ 0x5A for byte in content[at : at + 60]) + content[at + 60 :])
        try:
            list(documents_of(look(path)))
        except InputError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 20
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.parquet: not a parquet file"):
        list(documents_of(look(path)))


def test_lines_may_begin_with_a_byte_order_mark_and_end_in_crlf(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}')
    assert list(documents_of(look(tmp_path / "a.jsonl"))) == [b"a", b"b"]


def load(data: Path) -> Corpus:
    return load_corpus(DataConfig(data=str(data)))


def test_what_was_left_out_is_counted(tmp_path: Path) -> None:
    rows = [*(f"document {i} " * 20 for i in range(30)), None, "", "document 3 " * 20]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    assert load(tmp_path / "a.jsonl").found == "a.jsonl: JSON lines, 30 documents (2 empty and 1 repeated left out)"


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["hf:", "hf: ", "hf::", "hf:name:", "hf::config", "hf:a:b:c"])
def test_a_name_that_is_none_says_what_is_expected(data: str) -> None:
    with pytest.raises(InputError, match="expected hf:NAME or hf:NAME:CONFIG"):
        list(hub_documents(data))


def test_a_configuration_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    fake(monkeypatch, lambda *given, **options: asked.append((given, options)) or Rows(GOOD))
    assert len(list(hub_documents("hf:owner/name:part"))) == len(list(hub_documents("hf:name"))) == 3
    assert asked == [(("owner/name", "part"), {"split": "train"}), (("name", None), {"split": "train"})]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("hf:set", ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'de']")),
        ("hf:set:fr", ValueError("BuilderConfig 'fr' not found. Available: ['en', 'de']")),
    ],
)
def test_configurations_are_listed(data: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    fake(monkeypatch, fail, ["en", "de"])
    with pytest.raises(InputError, match="--data hf:set .*give one of them as hf:set:CONFIG: en, de") as caught:
        list(hub_documents(data))
    assert "\n" not in str(caught.value)


def test_a_local_folder_of_several_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library itself."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("first", "second"):
        (folder / f"{part}.jsonl").write_text(json.dumps({"text": part}) + "\n")
    parts = [f"- config_name: {part}\n  data_files: {part}.jsonl\n" for part in ("first", "second")]
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(parts) + "---\n")
    with pytest.raises(InputError, match="several configurations.*: first, second"):
        list(hub_documents(f"hf:{folder}"))
    with pytest.raises(InputError, match="no configuration 'third'.*: first, second"):
        list(hub_documents(f"hf:{folder}:third"))
    assert list(hub_documents(f"hf:{folder}:second")) == [b"second"]


class OfflineModeIsEnabled(ConnectionError):  # noqa: N818 (the name that the library gives it)
    pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OfflineModeIsEnabled("set"), "could not be loaded: offline: set"),
        (ConnectionError("no route\nto host"), "could not be loaded: the hub cannot be reached: no route"),
        (ValueError("another reason\nand more"), "could not be loaded: another reason"),
    ],
)
def test_why_a_set_was_not_loaded(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    fake(monkeypatch, fail)
    with pytest.raises(InputError, match=reason) as caught:
        list(hub_documents("hf:set"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "data"), [("datasets", "hf:set"), ("huggingface_hub", "fineweb10b"), ("pyarrow", "a.parquet")]
)
def test_a_missing_package_is_named(package: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": GOOD}), tmp_path / "a.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"needs the package {package}"):
        load_corpus(DataConfig(data=data))
