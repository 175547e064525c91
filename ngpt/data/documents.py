"""Documents of text from files and from the hub: every door makes the same checks and names the file and the row.

A document is valid UTF-8. A row without text (null, or nothing but white space) is an empty document, b"", which the
corpus counts and leaves out. Whatever else is not a string is refused.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ngpt.errors import InputError, as_input_error, first_line, require
from ngpt.sources import DataFile, opened

DOCUMENT_MARK = b"<|endoftext|>"
"""Separates documents inside a file of text."""


def documents_of(file: DataFile) -> Iterator[bytes]:
    """Yield the documents of one file. Raises InputError, naming file and row, on what is not text."""
    if file.format == "text":
        with opened(file.path) as stream:
            content = stream.read()
        parts = checked_utf8(content, str(file.path)).split(DOCUMENT_MARK)
        yield from (_stripped(part) for part in parts)
    elif file.format == "JSON lines":
        with opened(file.path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _json_text(line, f"{file.path}, line {number}", first=number == 1)
    else:
        yield from _parquet_documents(file.path)


def checked_utf8(content: bytes, where: str) -> bytes:
    """Return `content`. Raises InputError, with the place, unless it is UTF-8."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{where}: not UTF-8 at byte {error.start}, in line {line}") from error
    return content


def document_from(value: Any, where: str) -> bytes:
    """Return a row's text as a document; None is an empty one. Raises InputError on any other type."""
    if value is None:
        return b""
    if isinstance(value, bytes) or not isinstance(value, str):
        raise InputError(f"{where}: no string under 'text', but {type(value).__name__}")
    try:
        return _stripped(value.encode("utf-8"))
    except UnicodeEncodeError as error:
        half = f"half a surrogate pair, U+{ord(value[error.start]):04X}, at character {error.start}"
        raise InputError(f"{where}: 'text' holds {half}") from error


def _stripped(document: bytes) -> bytes:
    """Return the document as it is, or b"" if it holds nothing but white space."""
    return document if document.strip() else b""


def _json_text(line: bytes, where: str, *, first: bool) -> bytes:
    checked_utf8(line, where)
    with as_input_error(f"{where}: not JSON", ValueError, RecursionError):  # or nested too deeply
        row = json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    require(isinstance(row, dict), f"{where}: no string under 'text', but a {type(row).__name__} for a row")
    require("text" in row, f"{where}: no string under 'text', only {', '.join(row)}"[:300])
    return document_from(row["text"], where)


def _parquet_documents(path: Path) -> Iterator[bytes]:
    with as_input_error(f"{path}: reading Parquet needs the package pyarrow", ImportError):
        import pyarrow
        import pyarrow.parquet
        import pyarrow.types as types
    with opened(path) as stream:
        damage = (pyarrow.ArrowException, OSError, ValueError)  # what Arrow raises depends on where the damage is
        with as_input_error(f"{path}: not a parquet file with a column 'text'", *damage):
            file = pyarrow.parquet.ParquetFile(stream)
            schema = file.schema_arrow
        names = schema.names
        lacks = f"{path}: not a parquet file with a column 'text', only {', '.join(names) or 'none'}"
        require(names.count("text") == 1, lacks[:300])
        kind = schema.field("text").type
        values = kind.value_type if types.is_dictionary(kind) else kind
        texts = types.is_string, types.is_large_string, types.is_string_view, types.is_null
        require(any(is_text(values) for is_text in texts), f"{path}: its column 'text' holds {kind}, not text"[:300])
        row = 0
        batches = file.iter_batches(columns=["text"], batch_size=4096)
        while True:
            with as_input_error(f"{path}: damaged in row {row + 1} or after", *damage):
                batch = next(batches, None)
                if batch is None:
                    break
                column = batch.column(0)
                column = column.dictionary_decode() if types.is_dictionary(kind) else column
                rows = column.cast(pyarrow.large_string()).cast(pyarrow.large_binary()).to_pylist()
            for content in rows:
                row += 1
                yield _stripped(checked_utf8(content or b"", f"{path}, row {row}"))
        require(row == file.metadata.num_rows, f"{path}: damaged: {row} rows of {file.metadata.num_rows}")


# --- the hub ---------------------------------------------------------------------------------------------------------


def hub_documents(data: str) -> Iterator[bytes]:
    """Yield the column "text" of the training split of a data set on the hub or in a local folder.

    data: `hf:NAME`, or `hf:NAME:CONFIG` for one of several configurations. Raises InputError on anything wrong.
    """
    name, colon, config = data.removeprefix("hf:").partition(":")
    if os.path.isdir(data.removeprefix("hf:")):  # a folder with a colon in its name
        name, colon, config = data.removeprefix("hf:"), "", ""
    usable = name.strip() and (config.strip() if colon else True) and ":" not in config
    require(bool(usable), f"--data {data}: expected hf:NAME or hf:NAME:CONFIG")
    with as_input_error(f"--data {data} needs the package datasets", ImportError):
        import datasets
    quiet_hub()
    try:
        rows = datasets.load_dataset(name, config or None, split="train")
    except Exception as error:  # the library raises many kinds
        raise InputError(_why_not_loaded(data, name, config, error)) from error
    names = rows.column_names or []
    require("text" in names, f"--data {data} has no column 'text', only {', '.join(names)}"[:300])
    texts, number = iter(rows.select_columns(["text"])), 0
    while True:
        number += 1
        where = f"--data {data}, row {number}"
        with as_input_error(f"{where}: not UTF-8", UnicodeDecodeError):
            row = next(texts, None)
        if row is None:
            return
        yield document_from(row["text"], where)


def _why_not_loaded(data: str, name: str, config: str, error: Exception) -> str:
    """Return in one line why the library could not load a data set: configuration, network, or its own reason."""
    import datasets

    if "config" in str(error).lower():  # "Config name is missing", "BuilderConfig 'x' not found"
        try:
            known = datasets.get_dataset_config_names(name)
        except Exception:  # then the first error is the one to tell
            known = []
        if len(known) > 1 or (known and config):
            missing = "no configuration " + repr(config) if config else "several configurations"
            return f"--data hf:{name} has {missing}: give one of them as hf:{name}:CONFIG: {', '.join(known)}"
    reasons = [error, error.__cause__, error.__context__]
    offline = any("Offline" in type(one).__name__ or "offline" in str(one).lower() for one in reasons if one)
    unreachable = any(isinstance(one, ConnectionError | TimeoutError) for one in reasons)
    why = "offline: " if offline else "the hub cannot be reached: " if unreachable else ""
    cause = error.__cause__  # "An error occurred while generating the dataset" says too little
    more = f": {first_line(cause)}" if isinstance(cause, Exception) and not why else ""
    return f"--data {data} could not be loaded: {why}{first_line(error)}{more}"


def quiet_hub() -> None:
    """Silence the hub's client and `datasets`, which report every retry and failure; our own error is one line."""
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
