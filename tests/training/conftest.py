"""What the tests of whole runs share."""

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import VAL, Undisturbed, outcome, start

from ngpt.config import RunConfig
from ngpt.flags import to_flags
from ngpt.optim.build import build_optimizers
from ngpt.training import trainer


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of text, small and the same on every machine."""
    folder = tmp_path_factory.mktemp("data")
    generator = random.Random(0)
    words = [generator.choice(["the", "unit", "sphere", "of", "a gate", "step\n"]) for _ in range(5000)]
    (folder / "train.txt").write_text(" ".join(words))
    (folder / "val.txt").write_text("<|endoftext|>".join(VAL), encoding="utf-8")
    return str(folder)


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """A run sets threads and determinism for its whole process."""
    settings: Any = torch.utils.deterministic
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    filled = settings.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)
    torch.set_num_threads(threads)
    settings.fill_uninitialized_memory = filled


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The outcome of a run that nothing disturbs, made once for each configuration."""
    known: dict[str, tuple[Any, ...]] = {}

    def of(config: RunConfig) -> tuple[Any, ...]:
        key = " ".join(to_flags(config))
        if key not in known:
            known[key] = outcome(start(config, tmp_path_factory.mktemp("undisturbed"))[0])
        return known[key]

    return of


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Model and optimizers of the run to come."""
    found, build = SimpleNamespace(), build_optimizers

    def keep(model: torch.nn.Module, config: RunConfig, owned: Any) -> Any:
        found.model, found.optimizers = model, build(model, config, owned)
        return found.optimizers

    monkeypatch.setattr(trainer, "build_optimizers", keep)
    return found
