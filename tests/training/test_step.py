"""The two halves of a training step: the same bits however they are carried out, and no wait for a device inside."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import outcome, rows, small, start
from torch import Tensor

from ngpt.config import Runtime
from ngpt.data.batches import IGNORE_INDEX, Batches, Windows
from ngpt.errors import InputError
from ngpt.model import build_model
from ngpt.model.roles import parameter_specs
from ngpt.optim import build
from ngpt.optim.build import build_optimizers
from ngpt.presets import resolve
from ngpt.training import ahead, environment, step, trainer
from ngpt.training.environment import missing_compiler_as_error
from ngpt.training.sharding import ParameterSharding
from ngpt.training.step import Feed, TrainingStep

CPU = torch.device("cpu")


@pytest.mark.parametrize(("record", "context"), [(None, 0), (40, 0), (40, 7)])
def test_batches_gathered_on_the_device_are_those_of_the_host(record: int | None, context: int) -> None:
    tokens = torch.randint(0, 2**16, (2000,), generator=torch.Generator().manual_seed(0)).numpy().astype("uint16")
    batches = Batches(Windows(tokens, 16, record=record, context=context), batch_size=5, seed=3)
    host, device = Feed(batches, CPU), Feed(batches, CPU, gather=True)
    assert host.tokens is None and device.tokens is not None
    for number in (0, 1, 24, 25, 1000):
        for a, b in zip(host.at(number), device.at(number), strict=True):
            assert torch.equal(a, b) and a.dtype == b.dtype == torch.int64 and b.is_contiguous()
    assert (device.at(0)[1][:, : max(0, context - 1)] == IGNORE_INDEX).all()


def as_on_a_gpu(patch: pytest.MonkeyPatch) -> list[str]:
    """What a run does on a GPU, but for the GPU: rates in tensors, tokens there, and halves that are replayed.

    A replay overwrites the gradients that the capture left, as a CUDA graph does. Returns the list of what is captured.
    """
    captured: list[str] = []

    def capture(half: Callable[[], None], pool: Any) -> Callable[[], None]:
        captured.append(half.__name__)
        made: list[TrainingStep] = [half.__self__] if half.__name__ == "_forward_and_backward" else []  # type: ignore[attr-defined]

        def replay() -> None:
            for training_step in made:
                training_step.sharding.zero_grad()
            half()

        return replay

    patch.setattr(step, "capture", capture)
    patch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    patch.setattr(build, "_rate", lambda value, device: torch.full((), value))
    patch.setattr(trainer, "Feed", lambda batches, device: Feed(batches, device, gather=True))
    clean = trainer.TrainingStep
    patch.setattr(
        trainer, "TrainingStep", lambda *parts, **options: clean(*parts, **{**options, "graphs": True})
    )  # the device is a CPU
    return captured


MUON: list[dict[str, Any]] = [
    {},
    {"geodesic_muon": "lr-norm"},
    {"geodesic_muon": "lr", "momentum_transport": "rotate"},
    {"weight_decay": 1.0, "cautious_wd": True, "normuon": "rows"},
    {"momentum_start": 0.5, "momentum_warmup_steps": 5, "grad_clip": 0.1},
]


@pytest.mark.parametrize("options", [*MUON, {"optimizer": "adam"}], ids=str)
def test_replayed_steps_are_the_eager_ones(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """The schedule's rates are written to where a replay reads them, batches too; to rounding of a rate in float32."""
    config = small(data, schedule="linear", **options)
    eager, _ = start(config, tmp_path / "eager")
    captured = as_on_a_gpu(monkeypatch)
    replayed, record = start(config, tmp_path / "replayed")
    assert captured == ["_forward_and_backward", "move"] and record.engine == "eager, CUDA graphs"
    losses = [[row["loss"] for row in rows(folder)] for folder in (eager, replayed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(set(losses[0])) == len(losses[0])


def test_a_skipped_step_is_captured_later_and_a_fallback_again(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = as_on_a_gpu(monkeypatch)
    calls = iter(range(1000))
    clean = step.cross_entropy

    def spoilt(*args: Tensor) -> Tensor:
        number = next(calls)
        return clean(*args) * (float("nan") if number == 0 or 5 <= number < 8 else 1.0)

    monkeypatch.setattr(step, "cross_entropy", spoilt)
    _, record = start(small(data, nan_fallback="normuon", max_skipped_in_a_row=3), tmp_path)
    assert (record.status, record.skipped_steps, record.fell_back_at_step) == ("done", 4, 8)
    assert captured == ["_forward_and_backward", "move"] * 2


def test_a_resumed_run_replays_to_the_same_bits(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)
    config = small(data)
    whole, _ = start(config, tmp_path / "whole")

    def interrupt(number: int, _: float) -> None:
        if number == 7:
            raise KeyboardInterrupt

    runtime = Runtime(out=tmp_path / "resumed", progress=False, threads=1, save_every=3)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config, runtime, interrupt)
    folder, _ = trainer.train(
        config, Runtime(out=tmp_path / "resumed", progress=False, threads=1, save_every=3, resume=True)
    )
    assert outcome(folder) == outcome(whole)


@pytest.mark.parametrize(
    "options", [*MUON, {"orthogonalizer": "polar-express"}, {"match_step": "rms", "tangent": "before"}], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_half_waits_for_its_device(monkeypatch: pytest.MonkeyPatch, dtype: str, options: dict[str, Any]) -> None:
    """On PyTorch's device without values, where a number that the host asks for, or a CPU tensor between, is an error.

    Neither could be captured in a CUDA graph. Without AdamW, whose fused step knows no such device.
    """
    monkeypatch.setattr(build, "adamw", lambda parameters, *_, **options: torch.optim.SGD(parameters))
    monkeypatch.setattr(build, "_rate", lambda value, device: value)  # its bounds are checked by the host, once
    config = resolve("tiny", n_layer=1, n_embd=24, n_head=2, seq_len=8, dtype=dtype, **options)
    model = build_model(config.model, 50, seed=0).to("meta")
    optimizers = build_optimizers(model, config)
    for group in optimizers.hidden.param_groups:
        group |= {name: torch.full((), 0.1, device="meta") for name in ("lr", "momentum")}
    made = TrainingStep(
        model, optimizers, None, torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
        ParameterSharding(model, parameter_specs(model)),         compiled=False, graphs=False,
    )  # type: ignore[arg-type]  # fmt: skip
    made.x_BT = made.y_BT = torch.zeros(2, 8, dtype=torch.int64, device="meta")
    for _ in range(2):
        made._forward_and_backward()
        optimizers.hidden.step()
    optimizers.projection.project()
    assert made.outcome.is_meta
    with pytest.raises(RuntimeError, match="meta tensor"):
        made.outcome.tolist()


SLOW = [pytest.param("inductor", arch, marks=pytest.mark.slow) for arch in ("gated-ngpt", "ngpt", "gpt")]


@pytest.mark.parametrize(("backend", "arch"), [("aot_eager", "gated-ngpt"), *SLOW])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_compiled_run_says_so_and_only_rounds_differently(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, arch: str
) -> None:
    """Traced as one graph; "aot_eager" is all of the compiler but its code generator, which takes half a minute."""
    losses, folders = [], []
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    monkeypatch.setattr(step, "compiled_loss", step.compiled_loss.__wrapped__)
    monkeypatch.setattr(ahead, "require_compiler", lambda: None)
    for compiled in (False, True):
        folder, record = start(small(data, arch=arch, n_layer=1, steps=4, compile=compiled), tmp_path)
        assert record.engine == ("compiled" if compiled else "eager") and record.config["train"]["compile"] == compiled
        losses.append([row["loss"] for row in rows(folder)])
        folders.append(folder)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and folders[0] != folders[1]


def test_a_process_prepared_for_a_gpu_leaves_the_default_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CUDA graphs can be captured."""
    streams: list[object] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: ("stream of", device))
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    environment.prepare(torch.device("cuda", 0), torch.get_num_threads())
    assert streams == [("stream of", torch.device("cuda", 0))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_without_a_compiler_that_works_torch_compile_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(InputError, match=r"^--compile needs a C\+\+ compiler"), missing_compiler_as_error():
        torch.compile(lambda x: x.sin() + 1)(torch.ones(3))
    failing = tmp_path / "g++"
    says = "echo 'x.cpp:1:10: fatal error: Python.h' >&2; exit 1"
    failing.write_text(f"#!/bin/sh\ncase $1 in --version) echo g++ 1;; *) {says};; esac\n")
    failing.chmod(0o755)
    cpp_builder.cpp_compiler_search.cache_clear()
    monkeypatch.setattr(config.cpp, "cxx", (None, str(failing)))
    with pytest.raises(InputError, match=r"fails: x\.cpp:1:10: fatal error: Python\.h$"), missing_compiler_as_error():
        torch.compile(lambda x: x.cos() + 2)(torch.ones(3))
    with pytest.raises(RuntimeError, match="another"), missing_compiler_as_error():
        raise RuntimeError("another")
