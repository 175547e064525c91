"""What a run announces before its first step, and the operations that it is computed from."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from small_runs import flags, small
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ngpt import polar
from ngpt.command import main
from ngpt.config import Arch
from ngpt.cost import duration, hidden_entries, hidden_shapes, parameter_count, pass_operations, polar_operations
from ngpt.data.corpus import load_corpus
from ngpt.errors import InputError
from ngpt.kernels import attention, dense
from ngpt.model import build_model
from ngpt.model.loss import cross_entropy
from ngpt.model.roles import Role, parameter_specs
from ngpt.presets import resolve
from ngpt.training import preflight
from ngpt.training.preflight import announcement, outlook, product_rate

VOCAB = 300


@pytest.mark.parametrize("arch", get_args(Arch))
def test_the_operations_are_those_that_pytorch_counts(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With attention as plain products, causal half included, and none by oneDNN: those are what PyTorch counts."""
    monkeypatch.setattr(dense, "BY_ONEDNN", False)
    monkeypatch.setattr(attention, "LONGEST", 0)
    config = resolve(arch=arch, n_embd=48, n_head=4, n_layer=2, seq_len=32, batch_size=2)
    model = build_model(config.model, VOCAB, seed=0)
    ids = torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        cross_entropy(model(ids), ids).backward()
    assert counter.get_total_flops() == pass_operations(config, VOCAB)


@pytest.mark.parametrize("arch", get_args(Arch))
def test_the_parameters_are_those_of_the_model(arch: str) -> None:
    config = resolve(arch=arch, n_embd=40, n_head=4, n_layer=2, seq_len=32).model
    model = build_model(config, VOCAB, seed=0)
    specs = parameter_specs(model)
    assert parameter_count(config, VOCAB) == sum(p.numel() for p in model.parameters())
    assert hidden_entries(config) == sum(p.numel() for n, p in model.named_parameters() if specs[n].role == Role.HIDDEN)


@pytest.mark.parametrize("arch", ["gated-ngpt", "gpt", "gated-literal"])
@pytest.mark.parametrize("ns_steps", [1, 5])
@pytest.mark.parametrize("method", ["newton-schulz", "newton-schulz-cubic", "newton-schulz-literal"])
def test_the_orthogonalizers_operations_are_those_that_pytorch_counts(arch: str, ns_steps: int, method: Any) -> None:
    config = resolve(arch=arch, n_embd=48, n_head=4, n_layer=2, ns_steps=ns_steps, orthogonalizer=method)
    model = build_model(config.model, VOCAB, seed=0)
    specs = parameter_specs(model)
    matrices = [p.detach() for name, p in model.named_parameters() if specs[name].role == Role.HIDDEN]
    assert sorted(tuple(sorted(W.shape)) for W in matrices) == sorted(hidden_shapes(config.model) * 2)
    with FlopCounterMode(display=False) as counter:
        for W in matrices:
            polar.orthogonalize(W, method=method, steps=ns_steps)
    assert counter.get_total_flops() == polar_operations(config)
    assert polar_operations(resolve(optimizer="adam")) == 0


def test_a_long_run_is_announced_and_a_short_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "product_rate", lambda _: 1e9)
    config = resolve("tiny")
    seconds = (pass_operations(config, VOCAB) + polar_operations(config)) / 1e9
    assert not announcement(config, VOCAB, steps=int(59 / seconds))
    (line,) = announcement(config, VOCAB, steps=int(3700 / seconds))
    assert line.startswith(f"a step takes at least {seconds:.2g} s here") and line.endswith("61 min")


@pytest.mark.parametrize("fields", [{"dtype": "bfloat16"}, {"polar_dtype": "bfloat16"}, {}], ids=str)
@pytest.mark.parametrize("slower", [1.5, 7.0])
def test_an_emulated_precision_is_named_with_its_factor(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], slower: float
) -> None:
    rates = {torch.float32: 7e12, torch.bfloat16: 7e12 / slower}
    monkeypatch.setattr(preflight, "product_rate", rates.get)
    lines = announcement(resolve(**fields), VOCAB, steps=1)
    flags = {"dtype": ["--polar-dtype", "--dtype"], "polar_dtype": ["--polar-dtype"], "": []}["".join(fields)]
    words = "bfloat16 is emulated on this processor: products are 7.0x as fast with"
    expected = [f"{words} {flag} float32" for flag in flags]
    assert lines == (expected if slower > 2 else [])


def test_the_outlook_of_a_run_by_hand(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With products at 1e9 operations a second a step takes too long to be measured; nothing is trained."""
    monkeypatch.setattr(preflight, "product_rate", lambda _: 1e9)
    monkeypatch.setattr(preflight, "measured_steps", lambda *_: pytest.fail("a long step was made"))
    config = resolve(data=data, n_layer=2, n_embd=192, n_head=4, steps=50, batch_size=16)
    vocabulary = load_corpus(config.data).vocab_size
    work = pass_operations(config, vocabulary), polar_operations(config)
    found = outlook(config, device="cpu", threads=1)
    assert found.seconds == pytest.approx(50 * sum(work) / 1e9 / 0.4)
    hidden = 2 * (4 * 192**2 + 3 * 192 * 512)
    assert found.lines == [
        f"parameters: {parameter_count(config.model, vocabulary):,}, {hidden:,} of them non-embedding (the entries of "
        "hidden matrices)",
        f"tokens: 51,200 in 50 steps of 16 x 64, {51_200 / hidden:.3g} per non-embedding parameter",
        f"operations: {50 * sum(work):.3g}, {work[1] / sum(work):.0%} of them the orthogonalizer's",
        f"time: about {duration(found.seconds)} of training here on 1 thread, if a step reaches 40% of the rate of its "
        "products, which was measured; validation comes on top",
    ]


def test_short_steps_are_made_and_measured(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "MEASURED_SECONDS", 0.0)
    config = small(data, steps=1000)
    found = outlook(config, device="cpu", threads=1)
    assert found.lines[-1].endswith("measured on 3 steps; validation comes on top")
    assert found.seconds is not None and 0.1 < found.seconds < 1000
    budget = outlook(small(data, time_budget_seconds=20.0), device="cpu", threads=1)
    assert budget.seconds == 20 and budget.lines[-1] == "time: 20 s of training, by its budget"
    assert " in " in budget.lines[1] and budget.lines[1].startswith("tokens: about ")


def test_compiled_steps_are_predicted_without_compiling(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "measured_steps", lambda *_: [0.02, 0.04, 0.1])
    found = outlook(small(data, compile=True, steps=100), device="cpu", threads=1)
    assert found.seconds == pytest.approx(100 * 0.04 * preflight.COMPILED)
    assert "75% of what 3 steps took that were not compiled" in found.lines[-1]


def test_a_dry_run_leaves_nothing(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags(small(data, normuon="rows"), tmp_path / "runs"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["note", "parameters", "tokens", "operations", "time"]
    assert not (tmp_path / "runs").exists()


def test_it_takes_no_time_to_speak_of_and_no_random_number() -> None:
    before = torch.get_rng_state()
    assert product_rate(torch.float32) > 1e7
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dry_run_refuses_what_a_run_would(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a line\n" * 8)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"data": str(tmp_path / "short.txt")}, "hold no window of --seq-len 64"),
        ({"data": "nca:rules=64", "seq_len": 32}, "--seq-len must reach beyond the first"),
    ]
    for given, message in cases:
        with pytest.raises(InputError, match=message):
            outlook(resolve("tiny", **given), device="cpu")
