"""What a step needs beside weights, gradients and state is bounded, and slices change no bit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matrices import drawn, run, same_bits

from ngpt.optim import muon
from ngpt.optim.muon import SimpleMuon

ROOT = Path(__file__).parents[2]
SIDE, COUNT = 512, 32
STEP = """
import resource, sys, torch
torch.set_num_threads(1)
from ngpt import SimpleMuon

def made(count, side):
    parameters = [torch.nn.Parameter(torch.randn(side, side)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.randn(side, side)
    optimizer = SimpleMuon(parameters, **{"weight_decay": 0.0, "ns_steps": 1, **eval(sys.argv[1])})
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer

made(1, 64).step()  # loads what a step needs
optimizer = made(int(sys.argv[2]), int(sys.argv[3]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
OPTIONS: list[dict[str, Any]] = [
    {}, {"normuon": "rows", "cautious_wd": True, "weight_decay": 0.1},
    {"geodesic": "lr-norm", "sphere_dim": -1, "momentum_transport": "parallel"},
]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is counted in other units")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_a_step_needs_does_not_grow_with_the_number_of_matrices(options: dict[str, Any]) -> None:
    """Below 40 MiB for 32 MiB of weights, 1 MiB each; stepped as one stack they would need 80 to 400 MiB."""
    command = [sys.executable, "-c", STEP, repr(options), str(COUNT), str(SIDE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 40


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is counted in other units")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_a_step_of_small_matrices_needs_does_not_grow_with_their_number(options: dict[str, Any]) -> None:
    """Below 100 MiB for 200 MiB of weights, 0.25 MiB each: slices of a stack are stepped one after another."""
    command = [sys.executable, "-c", STEP, repr(options), "800", "256"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 100


def count_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    orthogonalize = muon.polar.orthogonalize

    def counting(X: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.append(len(X))
        return orthogonalize(X, **options)

    monkeypatch.setattr(muon.polar, "orthogonalize", counting)
    return sizes


@pytest.mark.parametrize(
    "options", [*OPTIONS, {"orthogonalizer": "polar-express", "tangent": "both", "sphere_dim": 0}], ids=str
)
@pytest.mark.parametrize(("limit", "sizes"), [(2**24, [11]), (5 * 2**12, [5, 5, 1]), (0, [1] * 11)])
def test_a_slice_changes_no_bit(
    options: dict[str, Any], limit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for most in (2**24, limit):
        monkeypatch.setattr(muon, "SLICE_BYTES", {"cpu": most, "cuda": most})
        parameters = drawn(shapes=[(32, 32)] * 11)
        groups: list[dict[str, Any]] = [{"params": parameters[:4]}, {"params": parameters[4:], "lr": 0.05}]
        optimizer = SimpleMuon(groups, **{"lr": 0.02, "weight_decay": 0.0, "polar_dtype": torch.float32, **options})
        with monkeypatch.context() as patch:
            found = count_batches(patch)
            run(parameters, optimizer, range(2))
        ends.append([*parameters, *(value for one in parameters for value in optimizer.state[one].values())])
    assert same_bits(*ends) and found == sizes * 2


def test_matrices_that_keep_a_cpu_busy_are_stepped_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = count_batches(monkeypatch)
    parameters = drawn(shapes=[(512, 520)] * 3 + [(511, 520)] * 3)
    run(parameters, SimpleMuon(parameters, ns_steps=1), [0])
    assert sizes == [1, 1, 1, 3]
