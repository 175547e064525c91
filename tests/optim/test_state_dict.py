"""State dicts: torch.optim.Muon's and older ones continue to the same bits; what cannot fit is refused, as a whole."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matrices import drawn, equal, everything, run, same_bits
from torch import nn
from torch.optim import Muon
from torch.optim._muon import EPS

from ngpt.optim.muon import SimpleMuon

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.02}, {"lr": 0.02, "ns_coefficients": (3.0, -4.0, 2.0), "eps": 1e-3, "ns_steps": 4, "weight_decay": 0.0},
    {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "momentum": 0.8},
]  # fmt: skip


def continued(first: Make, second: Make, **given: Any) -> list[nn.Parameter]:
    """Return matrices after five steps with each optimizer, the second with the first one's state dict."""
    parameters = drawn(given.pop("dtype", torch.float32))
    optimizer = first(parameters)
    run(parameters, optimizer, range(5), **given)
    saved = copy.deepcopy(optimizer.state_dict())
    others = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    resumed = second(others)
    resumed.load_state_dict(saved)
    run(others, resumed, range(5, 10), **given)
    return others


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_a_state_dict_of_torchs_muon_continues_to_the_same_bits(
    settings: dict[str, Any], dtype: torch.dtype, scale: float
) -> None:
    def by_torch(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return Muon(parameters, **settings)

    expected = drawn(dtype)
    run(expected, by_torch(expected), range(10), scale=scale)
    given: dict[str, Any] = {"dtype": dtype, "scale": scale}
    assert same_bits(continued(by_torch, lambda parameters: SimpleMuon(parameters, **settings), **given), expected)
    exact = settings | {"eps": settings.get("eps", EPS)}
    assert same_bits(continued(lambda parameters: SimpleMuon(parameters, **exact), by_torch, **given), expected)
    assert same_bits(continued(by_torch, lambda parameters: SimpleMuon(parameters, lr=9.0), **given), expected)


def test_torchs_muon_takes_a_state_dict_with_the_default_eps() -> None:
    expected = drawn()
    run(expected, Muon(expected, lr=0.02), range(10))
    assert same_bits(continued(lambda of: SimpleMuon(of, lr=0.02), lambda of: Muon(of, lr=0.02)), expected)


def test_options_that_a_state_dict_lacks_stay_as_they_are() -> None:
    def resumed(parameters: list[nn.Parameter]) -> SimpleMuon:
        return SimpleMuon(parameters, tangent="after", sphere_dim=-1, polar_dtype=torch.float32)

    parameters = drawn()
    source = Muon(parameters, lr=0.5)
    run(parameters, source, range(2))
    optimizer = resumed(drawn())
    optimizer.load_state_dict(source.state_dict())
    (group,) = optimizer.param_groups
    assert (group["lr"], group["tangent"], group["polar_dtype"], group["eps"]) == (0.5, "after", "float32", EPS)
    old = optimizer.state_dict()
    for name in ("match_step", "ns_coefficients", "eps", "momentum_transport"):
        del old["param_groups"][0][name]
    again = resumed(drawn())
    again.load_state_dict(old)
    run(again.param_groups[0]["params"], again, [2])


def test_the_momentum_of_other_gradients_keeps_its_precision() -> None:
    parameters = drawn(torch.bfloat16)
    optimizer = SimpleMuon(parameters, lr=0.02)
    run(parameters, optimizer, range(3), dtype=torch.float32)
    resumed_on = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    resumed = SimpleMuon(resumed_on)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for of, which in ((parameters, optimizer), (resumed_on, resumed)):
        run(of, which, range(3, 5), dtype=torch.float32)
    assert same_bits(parameters, resumed_on)


def changes() -> dict[str, tuple[Callable[[dict[str, Any]], Any], str]]:
    """Return ways to spoil a state dict, and a part of the sentence that refuses it."""

    def of_state(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        return lambda content: change(content["state"][3])

    def of_group(**options: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda content: content["param_groups"][0].update(options)

    return {
        "shape": (
            of_state(lambda s: s.update(momentum_buffer=torch.zeros(2, 2))),
            r"buffer of shape \(2, 2\)",
        ),
        "dtype": (of_state(lambda s: s.update(momentum_buffer=torch.zeros(24, 24, dtype=torch.int32))), "torch.int32"),
        "no momentum": (of_state(lambda s: s.pop("momentum_buffer")), "no momentum_buffer for .* 24"),
        "no second": (of_state(lambda s: s.pop("second_momentum_buffer")), "no second_momentum_buffer for .* 24"),
        "second": (of_state(lambda s: s.update(second_momentum_buffer=torch.zeros(1, 24))), "which needs .24, 1."),
        "other state": (of_state(lambda s: s.update(exp_avg=1)), "of another optimizer: its state is exp_avg"),
        "no tensor": (of_state(lambda s: s.update(momentum_buffer=1.0)), "no momentum_buffer"),
        "misspelt": (of_group(nesterow=True), "did you mean nesterov"),
        "foreign": (of_group(dampening=0), "another optimizer: its options are dampening"),
        "maximize": (of_group(maximize=True), "no option maximize"),
        "bad value": (of_group(lr=-1.0), "lr must be finite and not negative"),
        "not together": (of_group(geodesic="lr"), "geodesic='lr' needs unit vectors"),
        "not one": (lambda content: content.pop("state"), "not the state dict of an optimizer: it has no state"),
        "groups": (lambda content: content["param_groups"].clear(), "different number of parameter groups"),
        "number": (lambda content: content["param_groups"][0]["params"].pop(), "match the size"),
    }


@pytest.mark.parametrize("name", changes())
def test_a_state_dict_that_cannot_fit_is_refused_and_nothing_has_changed(name: str) -> None:
    optimizers = []
    for _ in range(2):
        parameters = drawn()
        optimizers.append(SimpleMuon(parameters, lr=0.02, normuon="rows"))
        run(parameters, optimizers[-1], range(2))
    content = copy.deepcopy(optimizers[0].state_dict())
    spoil, words = changes()[name]
    spoil(content)
    run(optimizers[1].param_groups[0]["params"], optimizers[1], [2])
    before = everything(optimizers[1])
    with pytest.raises((ValueError, TypeError), match=words):
        optimizers[1].load_state_dict(content)
    assert equal(everything(optimizers[1]), before)
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    assert not equal(everything(optimizers[1])[0], before[0])


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_the_state_dict_of_another_optimizer_is_refused(kind: Any) -> None:
    parameters = drawn()
    other = kind(parameters, lr=0.1)
    optimizer = SimpleMuon(drawn())
    for _ in range(2):  # before a step there is no state, only options
        with pytest.raises(ValueError, match="of another optimizer"):
            optimizer.load_state_dict(other.state_dict())
        run(parameters, other, [0])


def test_a_hook_may_adapt_a_state_dict_before_it_is_checked() -> None:
    source, optimizer = (SimpleMuon(drawn(), lr=lr) for lr in (0.5, 0.1))
    content = source.state_dict()
    content["param_groups"][0]["nesterow"] = content["param_groups"][0].pop("nesterov")

    def adapt(_: Any, given: dict[str, Any]) -> None:
        given["param_groups"][0]["nesterov"] = given["param_groups"][0].pop("nesterow")

    optimizer.register_load_state_dict_pre_hook(adapt)
    optimizer.load_state_dict(content)
    assert optimizer.param_groups[0]["lr"] == 0.5 and "nesterow" not in optimizer.param_groups[0]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_the_optimizer_steps_on(duplicate: Callable[[Any], Any]) -> None:
    parameters = drawn()
    optimizer = SimpleMuon(parameters, normuon="rows")
    run(parameters, optimizer, range(2))
    copied = duplicate(optimizer)
    of_copy = copied.param_groups[0]["params"]
    run(of_copy, copied, [2])
    run(parameters, optimizer, [2])
    assert same_bits(of_copy, parameters)
