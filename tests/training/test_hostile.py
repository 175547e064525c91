"""Mutated inputs: records, configurations, metrics, checkpoints and shards that are damaged, or whole and wrong.

Each is read as the program reads it. It is refused with an InputError that names the file, or it is what was written;
no other error, no wait, nothing overwritten. Seeds are kept: a failure says which number it was.
"""

import copy
import dataclasses
import json
import math
import os
import pickletools
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import flags, killed, small, start

from ngpt.command import main
from ngpt.config import Runtime, from_dict
from ngpt.data.shards import HEADER_BYTES, read_shard, write_shard
from ngpt.errors import EXIT_BAD_INPUT, InputError, exit_code_of
from ngpt.files import read_json, write_json
from ngpt.training.checkpoint import parse_checkpoint_state, read_tensors, write_tensors
from ngpt.training.record import CHECKPOINT, read_metrics, read_record
from ngpt.training.trainer import train

VALUES: list[Any] = [
    None, True, -1, 0, 10**30, -(10**30), 1e308, -0.5, "", "NaN", "x" * 10_000, [], {}, [[[]]], {"a": {"b": None}},
    [1, 2, 3], "../../etc", "\x00", "\ud7ff", 2**63, -(2**63), 1e-320,
]  # fmt: skip
"""What a number, a text or a section is replaced by."""

MANY = [400, pytest.param(5000, marks=pytest.mark.slow)]
"""Mutations of each kind of file; with the others of this file more than a thousand."""


def places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    if at:
        yield at
    for key, value in content.items() if isinstance(content, dict) else []:
        yield from places(value, (*at, key))


def mutated(content: dict[str, Any], generator: random.Random) -> dict[str, Any]:
    """A document with one value replaced, left out or added."""
    changed: Any = copy.deepcopy(content)
    *path, key = generator.choice(list(places(content)))
    inner = changed
    for step in path:
        inner = inner[step]
    kind = generator.random()
    if kind < 0.1:
        del inner[key]
    elif kind < 0.2:
        inner[f"{key}_"] = generator.choice(VALUES)
    else:
        inner[key] = generator.choice(VALUES)
    return dict(changed)


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Bytes flipped, cut off, blanked, repeated or exchanged for others."""
    at = generator.randrange(len(content))
    return [
        content[:at],
        content[:at] + bytes([generator.randrange(256)]) + content[at + 1 :],
        content[:at] + bytes(generator.randint(1, 64)) + content[at + 64 :],
        content[:at] + content[at // 2 :],
        generator.randbytes(generator.randint(0, 200)),
        content[:at] + generator.choice([b"NaN", b"Infinity", b"-1e999", b"null", b"[" * 100_000]) + content[at:],
    ][generator.randrange(6)]


def refused(read: Callable[[], Any], path: Path) -> Any:
    """What `read` gives, or None where it refuses and says which file it is, within ten seconds."""
    begin = time.monotonic()
    try:
        found = read()
    except InputError as error:
        assert str(path) in str(error) or str(error).startswith(("not a run configuration", "--")), error
        found = None
    assert time.monotonic() - begin < 10
    return found


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killed(small(data), tmp_path_factory.mktemp("hostile") / "runs")


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("name", ["record.json", "config.json", "metrics.jsonl"])
def test_damaged_documents(run: Path, tmp_path: Path, name: str, count: int) -> None:
    """Damage of bytes is seen by the checksum, unless it is no damage to the content, such as another blank."""
    generator, whole, path = random.Random(name), (run / name).read_bytes(), tmp_path / name
    read = {"record.json": read_record, "metrics.jsonl": read_metrics}.get(name, lambda folder: read_json(path))
    expected = read(run) if name != "config.json" else read_json(run / name)
    seen = 0
    for number in range(count):
        path.write_bytes(broken := damaged(whole, generator))
        found = refused(lambda: read(tmp_path), path)
        seen += found is None
        if name == "metrics.jsonl" and found is not None:
            assert found == expected[: len(found)], "lines before the one that was cut off"
        else:
            assert found in (None, expected), number
        assert path.read_bytes() == broken
    assert seen > count / 2


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("name", ["record.json", "config.json"])
def test_documents_that_are_whole_and_wrong(run: Path, tmp_path: Path, name: str, count: int) -> None:
    """With a checksum that fits: what is loaded has the types and the ranges of its fields, and is what was written."""
    generator, whole, path = random.Random(name), read_json(run / name), tmp_path / name
    if name == "record.json":
        whole["config"] = {"seed": 0}  # which is read as it is, and has a document of its own
    seen = 0
    for number in range(count):
        changed = mutated(whole, generator)
        write_json(path, changed)
        if name == "record.json":
            found = refused(lambda: read_record(tmp_path), path)
            loaded = None if found is None else {k: v for k, v in dataclasses.asdict(found).items() if k in changed}
        else:
            found = refused(lambda: from_dict(read_json(path)), path)
            loaded = None if found is None else dataclasses.asdict(found)
        seen += found is None
        assert loaded is None or loaded == changed, number
        for value in [] if loaded is None else numbers({**loaded, "config": {}} if name == "record.json" else loaded):
            assert math.isfinite(value) and abs(value) <= 2**63, (number, value)
    assert seen > count / 4


def numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        for value in content.values():
            yield from numbers(value)
    elif isinstance(content, int | float):
        yield content


@pytest.mark.parametrize("count", [120, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_checkpoints(run: Path, tmp_path: Path, count: int) -> None:
    generator, whole, path = random.Random(2), (run / CHECKPOINT).read_bytes(), tmp_path / CHECKPOINT
    tensors, state = read_tensors(run / CHECKPOINT)
    for number in range(count):
        path.write_bytes(broken := damaged(whole, generator))
        found = refused(lambda: read_tensors(path), path)
        if broken != whole:
            assert found is None, number
        else:
            assert found[1] == state and all(torch.equal(found[0][name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_states_of_checkpoints_that_are_whole_and_wrong(run: Path, tmp_path: Path, count: int) -> None:
    _, state = read_tensors(run / CHECKPOINT)
    generator, path, seen = random.Random(3), tmp_path / CHECKPOINT, 0
    for number in range(count):
        changed = mutated(state, generator)
        found = refused(partial(parse_checkpoint_state, changed, path), path)
        seen += found is None
        if found is not None:
            assert dataclasses.asdict(found) == changed | {"record": dataclasses.asdict(found.record)}, number
            assert all(value >= 0 for value in numbers(dataclasses.asdict(found.record) | {"config": 0}))
    assert seen > count / 4


NAN = float("nan")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.popitem(),
        lambda tensors: tensors.update(another=torch.zeros(2)),
        lambda tensors: tensors.update({name: tensor[..., :1] for name, tensor in tensors.items() if tensor.ndim}),
        lambda tensors: tensors.update({name: tensor.double() for name, tensor in tensors.items()}),
        lambda tensors: tensors.update({name: torch.full_like(tensor, NAN) for name, tensor in tensors.items()}),
        lambda tensors: tensors.update({name: tensor.int() for name, tensor in tensors.items()}),
        lambda tensors: tensors.clear(),
    ],
    ids=["one missing", "one more", "other shapes", "float64", "NaN", "whole numbers", "none"],
)
def test_tensors_of_checkpoints_that_are_whole_and_wrong(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object]
) -> None:
    """By the command, from a checkpoint whose checksum fits."""
    config = small(data)
    folder = killed(config, tmp_path)
    tensors, state = read_tensors(folder / CHECKPOINT)
    change(tensors)
    write_tensors(folder / CHECKPOINT, tensors, state)
    before = (folder / CHECKPOINT).read_bytes()
    assert exit_code_of(lambda: main(flags(config, tmp_path, "--resume"))) == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder / CHECKPOINT}: ") and (folder / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("count", MANY)
def test_damaged_shards(tmp_path: Path, count: int) -> None:
    """The format has no checksum: a shard is refused, or its header is whole and its tokens are of the vocabulary."""
    tokens = np.random.default_rng(0).integers(0, 50_257, 700).astype(np.uint16)
    write_shard(tmp_path / "whole.bin", tokens)
    generator, whole, path = random.Random(4), (tmp_path / "whole.bin").read_bytes(), tmp_path / "a.bin"
    seen = 0
    for number in range(count):
        broken = damaged(whole, generator)
        if generator.random() < 0.5:  # in the header
            at = generator.randrange(12)
            broken = whole[:at] + bytes([whole[at] ^ (1 << generator.randrange(8))]) + whole[at + 1 :]
        path.write_bytes(broken)
        found = refused(lambda: read_shard(path, 50_257), path)
        seen += found is None
        if found is not None:
            assert broken[:12] == whole[:12] and found.max() < 50_257 and found.shape == tokens.shape, number
            assert found.tobytes() == broken[HEADER_BYTES:]
    assert seen > count / 4


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("latin.txt", "caf\xe9 ".encode("latin-1") * 2000, "not UTF-8 at byte 3"),
        ("empty.txt", b"", "hold no window"),
        ("blank.txt", b" \n\t\n" * 2000, "hold no window"),
        ("nul.jsonl", b"\x00" * 5000, "line 1: not JSON"),
        ("deep.jsonl", b"[" * 200_000, "line 1: not JSON"),
        ("list.jsonl", b'["a"]\n', "line 1: no string under 'text'"),
        ("number.jsonl", b'{"text": 5}\n', "line 1: no string under 'text'"),
        ("noise.parquet", b"PAR1" + bytes(range(256)) * 9, "not a parquet file"),
        ("noise.bin", bytes(range(256)) * 9, "not a token shard"),
    ],
)
def test_hostile_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    arguments = ["--data", str(tmp_path / name), "--steps", "1", "--out", str(tmp_path / "runs"), "--no-progress"]
    assert exit_code_of(lambda: main(arguments)) == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and name in line and reason in line and len(line) < 400
    assert not (tmp_path / "runs").exists()


def test_one_line_of_a_hundred_megabytes(tmp_path: Path) -> None:
    """Is a text like any other."""
    path = tmp_path / "long.txt"
    path.write_bytes(b"unit vectors " * (100_000_000 // 13))
    begin = time.monotonic()
    config = small(str(path), steps=1)
    _, record = train(config, Runtime(out=tmp_path / "runs", progress=False, threads=1, keep_weights=False))
    assert record.status == "done" and time.monotonic() - begin < 30


@pytest.mark.parametrize("size", ["--n-embd 1000000 --n-head 1", "--n-embd 400000 --n-head 2"])
def test_too_little_memory_is_one_line(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    """Of terabytes, which no machine gives."""
    arguments = ["--data", data, *size.split(), "--steps", "1", "--out", str(tmp_path), "--no-progress"]
    assert exit_code_of(lambda: main(arguments)) == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "not enough memory on this machine" in line and len(line) < 400
    (record,) = (read_record(path.parent) for path in tmp_path.glob("*/record.json"))
    assert record.status == "failed" and "not enough memory" in (record.message or "")


def test_no_file_that_is_read_can_execute_code(data: str, tmp_path: Path) -> None:
    """A pickle in the place of every file, which would leave a mark if anything loaded it."""
    mark = tmp_path / "mark"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(mark),)

    torch.save({"model": Payload()}, tmp_path / "payload")
    payload = (tmp_path / "payload").read_bytes()
    folder = killed(small(data), tmp_path / "runs")
    done, _ = start(small(data, seed=1), tmp_path / "runs")
    for path in (folder / CHECKPOINT, folder / "record.json", folder / "metrics.jsonl", tmp_path / "text.txt",
                 tmp_path / "text.jsonl", tmp_path / "text.parquet", tmp_path / "text.bin"):  # fmt: skip
        kept = path.read_bytes() if path.exists() else None
        path.write_bytes(payload)
        with pytest.raises(InputError):
            start(small(data if kept else str(path)), tmp_path / "runs", resume=True)
        if kept is not None:
            path.write_bytes(kept)
    (done / "weights.safetensors").write_bytes(payload)
    with pytest.raises(InputError):
        start(small(data, init_from=str(done)), tmp_path / "runs")
    assert not mark.exists()
    with zipfile.ZipFile(tmp_path / "payload") as archive:  # what a loader of pickles would have called
        (program,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    opcodes = [(code.name, value) for code, value, _ in pickletools.genops(program)]
    assert ("GLOBAL", "posix mkdir") in opcodes and ("BINUNICODE", str(mark)) in opcodes, opcodes
    assert any(name == "REDUCE" for name, _ in opcodes), "it would be called"
    assert load_file(start(small(data), tmp_path / "runs", resume=True)[0] / "weights.safetensors")


def test_no_loader_of_code_is_imported_by_name() -> None:
    """Neither pickle nor torch.load, eval or exec is named anywhere in the package."""
    forbidden = ("pickle", "torch.load", "eval(", "exec(", "marshal", "shelve", "yaml")
    for path in (Path(__file__).parents[2] / "ngpt").rglob("*.py"):
        text = path.read_text().replace(".eval()", "")
        assert not [word for word in forbidden if word in text], path


def test_the_only_json_is_of_numbers_texts_lists_and_objects(run: Path) -> None:
    for name in ("record.json", "config.json"):
        json.loads((run / name).read_text(), parse_constant=lambda name: pytest.fail(name))
