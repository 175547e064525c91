"""Compilation ahead of runs: whom it serves, that it changes no bit, and what happens without a compiler."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from small_runs import ROOT, outcome, rows, small, start
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from ngpt.campaign.definition.plan import PlannedRun
from ngpt.campaign.execution.execute import execute
from ngpt.config import from_dict
from ngpt.errors import InputError
from ngpt.flags import to_flags
from ngpt.kernels import dense
from ngpt.training import ahead, environment, step

COMPILE = torch.compile

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own


@pytest.fixture(autouse=True)
def _own_compiled_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of the compiler but its code generator, which takes half a minute; nothing compiled before."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    monkeypatch.setenv(ahead.VARIABLE, "[]")
    monkeypatch.setenv(environment.COMPILED_CODE, os.environ.get(environment.COMPILED_CODE, ""))
    monkeypatch.setattr(ahead, "require_compiler", lambda: None)
    _forget()
    yield
    _forget()


def _forget() -> None:
    step.compiled_loss.cache_clear()
    torch._dynamo.reset()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def test_what_is_compiled_ahead_serves_runs_of_any_optimizer(data: str, tmp_path: Path) -> None:
    config = small(data, compile=True)
    ahead.want([config, small(data, compile=True, optimizer="adam", seed=3), small(data, n_layer=2)])
    before = graphs()
    ahead.compile_wanted()
    assert graphs() == before + 1
    for number, fields in enumerate(({}, {"optimizer": "adam", "seed": 5}, {"geodesic_muon": "lr", "aux_lr": 0.02})):
        start(small(data, compile=True, **fields), tmp_path / str(number))
    assert graphs() == before + 1
    start(small(data, compile=True, batch_size=2), tmp_path / "another batch")
    assert graphs() == before + 2


@pytest.mark.parametrize(
    "other", [{"n_embd": 48, "dtype": "bfloat16"}, {"seq_len": 16}, {"arch": "gpt"}, {"alpha": 0.4}], ids=str
)
def test_what_was_compiled_before_changes_no_bit(data: str, tmp_path: Path, other: dict[str, Any]) -> None:
    config = small(data, compile=True)
    alone = outcome(start(config, tmp_path / "alone")[0])
    _forget()
    ahead.want([small(data, compile=True, **other), config])
    ahead.compile_wanted()
    for number in range(2):
        start(small(data, compile=True, seed=number, **other), tmp_path / f"other {number}")
    assert outcome(start(config, tmp_path / "later")[0]) == alone


def test_runs_that_are_not_compiled_want_nothing_and_few_kinds_are_wanted(data: str) -> None:
    ahead.want([small(data), small(data, optimizer="adam")])
    assert json.loads(os.environ[ahead.VARIABLE]) == []
    before = graphs()
    ahead.compile_wanted()
    assert graphs() == before
    many = [small(data, compile=True, n_layer=depth) for depth in range(1, ahead.MOST + 5)]
    ahead.want(many)
    assert [from_dict(content) for content in json.loads(os.environ[ahead.VARIABLE])] == many[: ahead.MOST]


def test_what_cannot_be_compiled_for_is_left_to_its_runs(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = graphs()
    ahead.want([small(str(tmp_path / "nothing.txt"), compile=True), small(data, compile=True)])
    ahead.compile_wanted()
    assert graphs() == before + 1
    assert capsys.readouterr().err.count("compiling") == 1


def test_a_compiled_run_without_compiler_is_refused_before_it_begins(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"no no-such-compiler on this machine: .* --no-compile"):
        start(small(data, compile=True), tmp_path)
    assert not any(tmp_path.iterdir())
    start(small(data), tmp_path)


def test_a_run_never_goes_on_without_compiled_code(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch does by default at the ninth version of a function; other functions keep that."""
    monkeypatch.setattr(torch, "compile", functools.partial(COMPILE, backend="aot_eager"))
    monkeypatch.setattr(step, "MOST_COMPILED", 1)
    usual = torch._dynamo.config.recompile_limit
    start(small(data, compile=True, steps=1), tmp_path)
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        start(small(data, compile=True, steps=1, batch_size=2), tmp_path)
    assert torch._dynamo.config.recompile_limit == usual and not torch._dynamo.config.fail_on_recompile_limit_hit


def test_products_by_onednn_are_the_same_in_compiled_code(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by PyTorch's own operator, whose second matrix would have to be constant."""
    if not dense.onednn_can():
        pytest.skip("needs a processor with AVX512")
    monkeypatch.setattr(dense, "BY_ONEDNN", True)
    x, W = torch.randn(3, 5, 16, requires_grad=True), torch.randn(9, 16, requires_grad=True)

    def gradients(linear: Any) -> list[torch.Tensor]:
        y = linear(x, W)
        return [y, *torch.autograd.grad(y.square().sum(), (x, W))]

    traced = list[str]()

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        traced.append(graph.code)
        return make_boxed_func(graph.forward)

    found = gradients(COMPILE(lambda x, W: dense.linear(x, W), backend=aot_autograd(fw_compiler=keep)))
    assert [code.count("ngpt.times_transposed") for code in traced] == [1, 2], "one product forward, two backward"
    assert not any("aten.mm" in code or "mkldnn" in code for code in traced)
    for one, other in zip(found, gradients(dense.linear), strict=True):
        assert torch.equal(one, other)


def test_each_kind_of_processor_has_compiled_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set[str]()
    for given in (None, str(tmp_path)):
        for name, capability in (("EPYC", "AVX512"), ("EPYC", "AVX2"), ("Xeon", "AVX512"), ("Xeon", "AVX512")):
            monkeypatch.delenv(environment.COMPILED_CODE, raising=False)
            if given is not None:
                monkeypatch.setenv(environment.COMPILED_CODE, given)
            monkeypatch.setattr(environment, "processor", lambda name=name: name)
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
            environment.keep_compiled_code_apart()
            found = os.environ[environment.COMPILED_CODE]
            environment.keep_compiled_code_apart()
            assert os.environ[environment.COMPILED_CODE] == found, "a process started by this one stays there"
            assert Path(found).parent == Path(given or Path(tempfile.gettempdir(), f"torchinductor_{os.getuid()}"))
            folders.add(found)
    assert len(folders) == 6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(ahead.CXX) is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="needs a processor with AVX512")
def test_code_for_wider_vectors_is_not_taken_for_ones_own(data: str, tmp_path: Path) -> None:
    """PyTorch by itself does, and then fails or computes nonsense."""
    losses = []
    for capability in ("avx512", "avx2"):
        out = tmp_path / capability
        command = [sys.executable, "train_architectural.py", *to_flags(small(data, compile=True)), "--device", "cpu"]
        command += ["--threads", "1", "--no-progress", "--out", str(out)]
        variables = {"ATEN_CPU_CAPABILITY": capability, environment.COMPILED_CODE: str(tmp_path / "code")}
        subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True)
        (record,) = out.glob("*/record.json")
        losses.append([row["loss"] for row in rows(record.parent)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(list((tmp_path / "code").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(ahead.CXX) is None, reason="torch.compile needs a C++ compiler")
def test_a_campaign_compiles_once_and_its_runs_have_the_bits_of_single_ones(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    _forget()
    kinds: tuple[dict[str, Any], ...] = ({}, {"arch": "gpt"})
    runs = [
        PlannedRun.of("comparison", "Muon", seed, small(data, compile=True, seed=seed, **fields))
        for seed in (0, 1) for fields in kinds
    ]  # fmt: skip
    ended = execute(runs, out=tmp_path / "campaign", jobs=2, device="cpu", threads=1)
    assert not ended.failures and capfd.readouterr().err.count("compiling") == 1
    for run in runs:
        assert outcome(tmp_path / "campaign" / run.run_id) == outcome(start(run.config, tmp_path / "single")[0])
