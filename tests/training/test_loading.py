"""A finished run loaded again and sampled: the same weights, whole characters, and one line for what is no run."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import torch
from small_runs import ROOT, killed, small, start

from ngpt import load_run, sample
from ngpt.data.corpus import load_corpus
from ngpt.data.tokenizers import Tokenizer
from ngpt.errors import InputError, exit_code_of
from ngpt.files import read_json, write_json
from ngpt.loading import SavedRun
from ngpt.training.checkpoint import read_tensors, tensors_sha256, write_tensors
from ngpt.training.evaluation import Evaluator
from ngpt.training.record import WEIGHTS

EURO = "€".encode()


@pytest.fixture(scope="module")
def folder(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(small(data), tmp_path_factory.mktemp("loading"))[0]


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / folder.name))


@pytest.fixture
def run(folder: Path) -> SavedRun:
    return load_run(folder)


# --- load_run --------------------------------------------------------------------------------------------------------


def test_the_model_is_the_one_that_was_validated(data: str, run: SavedRun) -> None:
    corpus = load_corpus(run.config.data)
    windows = corpus.windows(corpus.val, run.config.model.seq_len)
    tokens, device = run.config.train.eval_tokens, torch.device("cpu")
    evaluator = Evaluator(windows, corpus.byte_lengths, eval_tokens=tokens, device=device)
    figures = evaluator.measure(run.model, torch.autocast("cpu", torch.bfloat16, enabled=False))
    assert figures["val_loss"] == run.record.final_val_loss
    assert run.config == small(data) and run.tokenizer == Tokenizer("bytes") and not run.model.training
    digest = tensors_sha256(dict(run.model.named_parameters()))
    assert digest == run.record.weights_sha256["final"]


@pytest.mark.parametrize("arch", ["ngpt", "gpt", "gated-literal"])
def test_every_architecture_is_loaded(data: str, tmp_path: Path, arch: str) -> None:
    made, record = start(small(data, arch=arch, steps=2), tmp_path)
    weights = dict(load_run(str(made)).model.named_parameters())
    assert tensors_sha256(weights) == record.weights_sha256["final"]


def test_automata_have_a_model_but_no_text(tmp_path: Path) -> None:
    data = "nca:states=3,grid=4,rules=20"
    run = load_run(start(small(data, steps=2, seq_len=24), tmp_path)[0])
    assert run.tokenizer is None and run.model(torch.zeros(1, 3, dtype=torch.long)).shape[:2] == (1, 3)
    with pytest.raises(InputError, match="no text to sample"):
        sample.stream(run)


def test_what_has_no_final_weights_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"this run \(killed\) has no final weights: it has not finished"):
        load_run(killed(small(data), tmp_path / "a"))
    with pytest.raises(InputError, match=r"this run \(done\) has no final weights: it did not keep them, like runs of"):
        load_run(start(small(data, steps=2), tmp_path / "b", keep_weights=False)[0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("nowhere", "empty", "file"):
        with pytest.raises(InputError, match=f"{name}: not the folder of a run"):
            load_run(tmp_path / name)


def reconfigured(folder: Path, section: str, **values: Any) -> None:
    content = read_json(folder / "record.json")
    content["config"][section] |= values
    write_json(folder / "record.json", content)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], *, trusted: bool = True) -> None:
    """Change weights, with every checksum as it should be."""
    tensors, state = read_tensors(folder / WEIGHTS)
    change(tensors)
    write_tensors(folder / WEIGHTS, tensors, state)
    record = read_json(folder / "record.json")
    if trusted:
        record["weights_sha256"]["final"] = tensors_sha256(tensors)
    write_json(folder / "record.json", record)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "truncated or damaged"),
    (lambda f: (f / WEIGHTS).write_bytes(b""), "truncated or damaged"),
    (lambda f: (f / "record.json").write_text("{"), "truncated or damaged"),
    (lambda f: (f / "record.json").write_bytes(b"\xff\xfe"), "truncated or damaged"),
    (lambda f: write_json(f / "record.json", {"run_id": "x"}), "not a run record"),
    (lambda f: reconfigured(f, "model", n_layer=2), "does not fit the model"),
    (lambda f: reconfigured(f, "model", n_embd=64), "does not fit the model"),
    (lambda f: reconfigured(f, "model", depth=2), "not a run configuration"),
    (lambda f: rewritten(f, lambda tensors: tensors.popitem()), "does not fit the model"),
    (lambda f: rewritten(f, lambda tensors: tensors["embedding.weight"][0].fill_(torch.nan)), "not finite"),
    (lambda f: rewritten(f, lambda tensors: tensors["embedding.weight"].mul_(2), trusted=False), "not the final"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGE)
def test_damage_is_one_line(copied: Path, damage: Callable[[Path], object], why: str) -> None:
    damage(copied)
    with pytest.raises(InputError, match=why) as error:
        load_run(copied)
    assert str(copied) in str(error.value)


# --- decode ----------------------------------------------------------------------------------------------------------


class FakeGpt2:
    """One token a character, as many bytes as the character has."""

    def encode_ordinary(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode_single_token_bytes(self, token: int) -> bytes:
        return chr(token).encode()


@pytest.mark.parametrize("name", ["bytes", "gpt2"])
def test_decode_is_the_inverse_of_encode(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: FakeGpt2())
    documents = ["größer ≤ 1\n".encode(), b"", EURO]
    assert Tokenizer(name).decode(Tokenizer(name).encode(documents)) == b"".join(documents)
    assert Tokenizer(name).decode(np.array([65, 66], np.uint16)) == b"AB" and Tokenizer(name).decode([]) == b""


# --- sample ----------------------------------------------------------------------------------------------------------


class Speaker(torch.nn.Module):
    """A model that says one given token after another; keeps what it was shown."""

    def __init__(self, tokens: bytes | list[int]) -> None:
        super().__init__()
        self.tokens, self.seen = list(tokens), list[list[int]]()

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        self.seen += ids_BT.tolist()
        logits = torch.zeros(*ids_BT.shape, 257)
        logits[0, -1, self.tokens[len(self.seen) - 1]] = 9.0
        return logits


def said(run: SavedRun, tokens: bytes | list[int], **options: Any) -> tuple[list[str], list[list[int]]]:
    """The pieces that a Speaker of `tokens` comes out as, and what it was shown."""
    speaker = Speaker(tokens)
    pieces = sample.stream(dataclasses.replace(run, model=speaker), temperature=0, tokens=len(tokens), **options)
    return list(pieces), speaker.seen


def test_characters_come_whole(run: SavedRun) -> None:
    assert said(run, b"a" + EURO + b"b")[0] == ["a", "€", "b"]
    assert said(run, b"a" + EURO[:2])[0] == ["a"], "its last character is incomplete"
    assert said(run, b"a\xffb")[0] == ["a", "\ufffd", "b"], "no character at all"
    assert "".join(said(run, b"\xe2A")[0]) == "\ufffdA"


def test_the_end_of_the_document_ends_the_text(run: SavedRun) -> None:
    assert said(run, [65, 256, 66])[0] == ["A"]


def test_the_model_sees_the_separator_the_prompt_and_the_last_of_a_long_text(run: SavedRun) -> None:
    assert said(run, b"xy")[1] == [[256], [256, *b"x"]]
    assert said(run, b"xy", prompt="€")[1] == [[256, *EURO], [256, *EURO, *b"x"]]
    context = run.config.model.seq_len
    seen = said(run, b"xy", prompt="p" * (context - 1))[1]
    assert seen == [[256, *b"p" * (context - 1)], [*b"p" * (context - 1), *b"x"]]
    assert len(list(sample.stream(run, "long " * context, tokens=3, seed=1))) <= 3


def test_the_seed_decides_the_text(run: SavedRun) -> None:
    texts = ["".join(sample.stream(run, "the ", tokens=60, seed=seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    cold = {"".join(sample.stream(run, "the ", tokens=60, temperature=0, seed=seed)) for seed in range(3)}
    nearly = "".join(sample.stream(run, "the ", tokens=60, temperature=5e-324, seed=5))
    assert cold == {nearly} == {"".join(sample.stream(run, "the ", tokens=60, top_k=1, temperature=1e308))}


def test_tokens_are_drawn_in_proportion_to_the_likeliest_k() -> None:
    logits, generator = torch.tensor([0.0, 1.0, -3.0, 2.0]), torch.Generator().manual_seed(0)
    for top_k, temperature in ((None, 1.0), (2, 1.0), (9, 0.5), (3, 2.0)):
        draws = [sample.next_token(logits, temperature, top_k, generator) for _ in range(4000)]
        kept = logits.clone()
        kept[logits.argsort(descending=True)[top_k or 4 :]] = -torch.inf
        expected = torch.softmax(kept / temperature, dim=0)
        shares = torch.bincount(torch.tensor(draws), minlength=4) / len(draws)
        assert torch.allclose(shares, expected, atol=0.03) and bool((shares[expected == 0] == 0).all())


def sampled(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code: Any = exit_code_of(lambda: sample.main(arguments))
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


def test_the_command_prints_prompt_and_text(folder: Path, run: SavedRun, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tokens", "30", "--seed", "3", "--top-k", "20", "--temperature", "0.7"]
    code, out, err = sampled([str(folder), "--prompt", "the ≤", *options], capsys)
    text = "".join(sample.stream(run, "the ≤", tokens=30, seed=3, top_k=20, temperature=0.7))
    assert (code, out, err) == (0, f"the ≤{text}\n", "")
    assert sampled([str(folder), "--tokens", "9"], capsys)[0] == 0


@pytest.mark.parametrize(
    "wrong",
    ["--tokens 0", "--tokens -1", "--tokens 1.5", "--tokens x", "--temperature -0.1", "--temperature nan", "--top-k 0",
     "--temperature inf", "--temperature hot", "--top-k -3", "--seed -1", f"--seed {2**63}", "--prompt \udcff",
     "--se 1", "--tokens"],
)  # fmt: skip
def test_wrong_flags_are_one_line(folder: Path, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = sampled([str(folder), *wrong.split(" ")], capsys)
    assert (code, out) == (2, "") and re.fullmatch(r"error: .*\n", err)


def test_an_unknown_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = sampled([str(tmp_path / "nowhere")], capsys)
    assert (code, out) == (2, "") and re.fullmatch(r"error: .*nowhere: not the folder of a run.*\n", err)


def test_a_terminal_that_knows_less_gets_escapes(folder: Path) -> None:
    command = [sys.executable, "-m", "ngpt.sample", str(folder), "--prompt", "€5", "--tokens", "1"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.startswith(rb"\u20ac5")


def test_a_closed_pipe_ends_it_quietly(folder: Path) -> None:
    command = [sys.executable, "-m", "ngpt.sample", str(folder), "--tokens", "1000000", "--temperature", "0"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "utf-8"}, **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(20)) == 20
        process.stdout.close()
        assert process.wait(60) != 0 and process.stderr.read() == b""


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_what_pytorch_builds_by_default_does_not_matter(folder: Path, run: SavedRun, dtype: torch.dtype) -> None:
    """A notebook may have set another dtype, or another device."""
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        found = load_run(folder)
        assert torch.get_default_dtype() == dtype and torch.empty(1).device.type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    tensors = [*run.model.parameters(), *run.model.buffers()]
    for mine, usual in zip([*found.model.parameters(), *found.model.buffers()], tensors, strict=True):
        assert mine.dtype == usual.dtype and mine.device.type == "cpu" and torch.equal(mine, usual)


def test_text_is_sampled_on_as_many_threads_as_a_run_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(2)
    try:
        assert sample.main([str(folder), "--tokens", "2"]) == 0 and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)
