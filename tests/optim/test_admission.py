"""SimpleMuon takes what torch.optim.Muon takes, to the same bits, or says in one sentence why not, changing nothing."""

import math
import timeit
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from matrices import drawn, equal, everything, give_gradients, run, same_bits
from torch import Tensor, nn
from torch.optim import Muon, _muon

from ngpt import polar, refusals
from ngpt.optim import admission
from ngpt.optim.muon import SimpleMuon

# --- the arguments of torch.optim.Muon -------------------------------------------------------------------------------

EPS = _muon.EPS


@pytest.mark.parametrize(
    "arguments",
    [(0.02,), (0.02, 0.1, 0.9, True, (3.0, -4.0, 2.0)), (0.02, 0.0, 0.9, True, [3.4445, -4.775, 2.0315], 1e-3),
     (0.02, 0.1, 0.95, True, (1.5, -0.5, 0.0), 10.0, 7, "match_rms_adamw")],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_torchs_arguments_in_torchs_order_give_torchs_bits(arguments: tuple[Any, ...], scale: float) -> None:
    ends = []
    for kind in (Muon, SimpleMuon):
        parameters = drawn()
        given = (*arguments, *((0.1, 0.95, True, polar.QUINTIC, EPS)[len(arguments) - 1 :]))
        run(parameters, kind(parameters, *given), range(4), scale=scale)
        ends.append(parameters)
    assert same_bits(*ends)
    by_keyword = drawn()
    run(
        by_keyword,
        SimpleMuon(by_keyword, **dict(zip(admission.FROM_TORCH, given, strict=False))),
        range(4),
        scale=scale,
    )
    assert same_bits(by_keyword, ends[0])


def test_without_eps_a_step_does_not_depend_on_the_scale_of_the_gradient() -> None:
    moved = []
    for options in ({}, {"eps": EPS}):
        for scale in (1.0, 2.0**-60):
            parameters = drawn()
            run(parameters, SimpleMuon(parameters, 0.02, **options), [0], scale=scale)
            moved.append(parameters)
    assert same_bits(moved[0], moved[1]) and same_bits(moved[0], moved[2]) and not same_bits(moved[2], moved[3])


def test_the_default_coefficients_are_torchs() -> None:
    assert refusals.QUINTIC == polar.QUINTIC == (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("mu", [0.9375, 0.99609375], ids=str)  # exact in float32; the second is not in bfloat16
def test_a_momentum_in_a_tensor_is_the_number_it_holds(dtype: torch.dtype, mu: float) -> None:
    ends = []
    for momentum in (mu, torch.tensor(mu)):
        parameters = drawn(dtype)
        run(parameters, SimpleMuon(parameters, lr=0.02, momentum=momentum), range(4))
        ends.append(parameters)
    assert same_bits(*ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("of_gradient", [torch.float32, torch.bfloat16, torch.float64, torch.float16], ids=str)
def test_a_gradient_may_have_another_float_dtype(dtype: torch.dtype, of_gradient: torch.dtype) -> None:
    ends = []
    for kind in (Muon, SimpleMuon):
        parameters = drawn(dtype)
        optimizer = kind(parameters, lr=0.02)
        run(parameters, optimizer, range(3), dtype=of_gradient)
        assert {optimizer.state[p]["momentum_buffer"].dtype for p in parameters} == {of_gradient}
        ends.append(parameters)
    if dtype == torch.float16:  # torch rounds the rate otherwise there
        assert all(torch.allclose(*pair, rtol=2**-10, atol=2**-10) for pair in zip(*ends, strict=True))
    else:
        assert same_bits(*ends)


@pytest.mark.parametrize(
    "options",
    [{"geodesic": "lr-norm", "momentum_transport": "parallel"}, {"normuon": "rows", "tangent": "both"},
     {"cautious_wd": True, "weight_decay": 0.1, "match_step": "angle"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
def test_so_it_may_with_the_further_options(options: dict[str, Any], dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    dtype, of_gradient = dtypes
    ends = []
    for exact in (False, True):  # the same numbers in float64, that is, without a rounding of weights or momentum
        parameters = drawn(torch.float64 if exact else dtype, [(6, 8), (8, 6)])
        optimizer = SimpleMuon(parameters, **{"lr": 0.02, "weight_decay": 0.0, "sphere_dim": -1, **options})
        run(parameters, optimizer, range(2), dtype=of_gradient)
        ends.append(parameters)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0.02, atol=0.02)


def views() -> dict[str, Callable[[], list[nn.Parameter]]]:
    """Return matrices that lie in memory as torch.optim.Muon takes them, made anew at each call."""

    def base() -> Tensor:
        return torch.randn(12, 16, generator=torch.Generator().manual_seed(0))

    def overlapping() -> list[nn.Parameter]:
        whole = base()
        return [nn.Parameter(whole[:8]), nn.Parameter(whole[4:])]

    def twice() -> list[nn.Parameter]:
        whole = base()
        return [nn.Parameter(whole), nn.Parameter(whole)]

    return {
        "strided": lambda: [nn.Parameter(base()[::2, ::2])],
        "transposed": lambda: [nn.Parameter(base().T)],
        "frozen": lambda: [nn.Parameter(base(), requires_grad=False)],
        "no rows": lambda: [nn.Parameter(torch.zeros(0, 4)), nn.Parameter(base())],
        "overlapping": overlapping,
        "one memory": twice,
    }


@pytest.mark.parametrize("name", views())
def test_matrices_may_lie_in_memory_in_any_way(name: str) -> None:
    ends = []
    for kind in (Muon, SimpleMuon):
        parameters = views()[name]()
        run(parameters, kind([{"params": parameters[:1]}, {"params": []}, {"params": parameters[1:]}]), range(3))
        ends.append(parameters)
    assert same_bits(*ends)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("options", [{}, {"normuon": "rows", "geodesic": "lr", "sphere_dim": 0}], ids=str)
def test_a_matrix_without_entries_is_no_work(shape: tuple[int, int], options: dict[str, Any]) -> None:
    parameters = drawn(shapes=[shape, (4, 6)])
    before = parameters[1].detach().clone()
    run(parameters, SimpleMuon(parameters, weight_decay=0.0, **options), range(2))
    assert parameters[0].shape == shape and not torch.equal(parameters[1], before)


def test_matrices_without_memory_are_taken() -> None:
    parameter = nn.Parameter(torch.empty(4, 6, device="meta"))
    parameter.grad = torch.empty_like(parameter)
    SimpleMuon([parameter], geodesic="lr", sphere_dim=0, weight_decay=0.0).step()


# --- parameters and gradients that are refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "error", "words"),
    [
        (
            torch.zeros(3, 4, dtype=torch.complex64),
            TypeError,
            r"\(3, 4\) and dtype torch.complex64; leave it out",
        ),
        (torch.zeros(3, 4, dtype=torch.int32), TypeError, "torch.int32; leave it out"),
        (torch.zeros(3, 4, dtype=torch.bool), TypeError, "torch.bool; leave it out"),
        (torch.zeros(6), ValueError, r"matrices, not a parameter of shape \(6,\) .* give it to AdamW"),
        (torch.zeros(2, 3, 4), ValueError, r"matrices, not a parameter of shape \(2, 3, 4\)"),
        (torch.zeros(1, 4).expand(3, 4), ValueError, r"share memory, as after expand\(\); clone\(\) it"),
        (torch.eye(3).to_sparse(), TypeError, "dense matrices, not .* layout torch.sparse_coo"),
    ],
)
def test_a_parameter_that_cannot_be_stepped_is_refused_at_construction(
    parameter: Tensor, error: type[Exception], words: str
) -> None:
    floats = parameter.is_floating_point() or parameter.is_complex()
    with pytest.raises(error, match=words):
        SimpleMuon([nn.Parameter(parameter, requires_grad=floats)])


def test_a_sparse_gradient_is_refused_and_nothing_has_moved() -> None:
    parameters = drawn()
    optimizer = SimpleMuon(parameters, lr=0.02)
    run(parameters, optimizer, [0])
    give_gradients(parameters, 1)
    parameters[-1].grad = parameters[-1].grad.to_sparse()
    before = everything(optimizer)
    with pytest.raises(TypeError, match=r"no sparse gradient, as a parameter of shape \(5, 1\) .* make it dense"):
        optimizer.step()
    assert equal(everything(optimizer), before)


def test_a_parameter_that_was_replaced_by_one_of_another_shape_is_refused() -> None:
    (parameter,) = parameters = drawn(shapes=[(4, 6)])
    optimizer = SimpleMuon(parameters, normuon="rows")
    run(parameters, optimizer, [0])
    parameter.data = torch.zeros(6, 4)
    with pytest.raises(ValueError, match=r"shape \(6, 4\) .* gradient of shape \(4, 6\)"):
        optimizer.step()
    parameter.grad = None
    give_gradients(parameters, 1)
    with pytest.raises(ValueError, match=r"momentum_buffer of shape \(4, 6\) .* clear its state"):
        optimizer.step()
    optimizer.state.clear()
    optimizer.step()


def test_parameters_that_overlap_are_refused_where_an_update_would_be_lost() -> None:
    whole = torch.randn(8, 6)
    halves = [nn.Parameter(whole[:, :3]), nn.Parameter(whole[:, 3:])]  # one storage, but no common entry
    SimpleMuon(halves, geodesic="lr", sphere_dim=0, weight_decay=0.0)
    overlapping = [nn.Parameter(whole[:, :4]), nn.Parameter(whole[:, 3:])]
    with pytest.raises(ValueError, match="shares memory with another one"):
        SimpleMuon(overlapping, geodesic="lr", sphere_dim=0, weight_decay=0.0)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="shares memory"):
        warnings.simplefilter("ignore")  # torch's, about duplicates
        SimpleMuon([halves[0], halves[0]], cautious_wd=True)
    optimizer = SimpleMuon(overlapping)
    optimizer.param_groups[0]["cautious_wd"] = True
    with pytest.raises(ValueError, match="shares memory"):
        optimizer.step()


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"lr": "0.1"}, TypeError, "lr must be a number, not '0.1'"),
        ({"lr": torch.tensor([0.1, 0.2])}, ValueError, r"lr must be one number, not a tensor of shape \(2,\)"),
        ({"momentum": None}, TypeError, "momentum must be a number"),
        ({"ns_steps": 2.5}, TypeError, "ns_steps must be a whole number, not 2.5"),
        ({"nesterov": "no"}, TypeError, "nesterov must be True or False, not 'no'"),
        ({"ns_coefficients": (1.0, 2.0)}, ValueError, "ns_coefficients must be three finite numbers"),
        ({"ns_coefficients": (1.0, 2.0, math.nan)}, ValueError, "three finite numbers"),
        ({"eps": -1.0}, ValueError, "eps must be finite and not negative: -1.0"),
        ({"eps": 1e-7, "orthogonalizer": "svd"}, ValueError, "eps=1e-07 has no effect with orthogonalizer='svd'"),
        ({"ns_coefficients": (1.5, -0.5, 0.0), "orthogonalizer": "you"}, ValueError,
         "needs orthogonalizer='newton-schulz': you has coefficients of its own"),
        ({"nesterow": False}, TypeError, "no option nesterow; did you mean nesterov?"),
        ({"weigth_decay": 0.1}, TypeError, "did you mean weight_decay?"),
        ({"geodesic_muon": "lr"}, TypeError, "did you mean geodesic?"),
        ({"maximize": True}, TypeError, "no option maximize"),
        ({"foreach": True}, TypeError, None),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_option_is_refused_for_all_groups_and_for_one(
    wrong: dict[str, Any], error: type[Exception], words: str | None
) -> None:
    with pytest.raises(error, match=words):
        SimpleMuon(drawn(), **wrong)
    if words is not None:
        with pytest.raises(error, match=words):
            SimpleMuon([{"params": drawn(), **wrong}])
        optimizer = SimpleMuon(parameters := drawn())
        give_gradients(parameters, 0)
        before = everything(optimizer)[1]
        optimizer.param_groups[0].update(wrong)
        with pytest.raises(error, match=words):
            optimizer.step()
        assert equal(everything(optimizer)[1], before)


def test_what_others_keep_in_the_groups_stays_there() -> None:
    keys = {
        "name": "hidden", "initial_lr": 0.1, "max_lr": 1.0, "min_lr": 0.0, "base_momentum": 0.85, "max_momentum": 0.95,
        "betas": (0.9, 0.95), "use_muon": True, "lr_scale": 0.5, "max_weight_decay": 0.1, "maximize": False,
        "foreach": None, "fused": True, "swa_lr": 0.1, "differentiable": False,
    }  # fmt: skip
    parameters = drawn()
    optimizer = SimpleMuon([{"params": parameters, **keys}])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
    run(parameters, optimizer, [0])
    scheduler.step()
    run(parameters, optimizer, [1])
    again = SimpleMuon(drawn())
    with pytest.raises(ValueError, match="of another optimizer: its options are betas"):
        again.load_state_dict(optimizer.state_dict())
    again = SimpleMuon([{"params": drawn(), "betas": (0.0, 0.0)}])
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["name"] == "hidden" and "initial_lr" in again.param_groups[0]
    named = SimpleMuon([("first", parameters[0]), ("second", parameters[1])])
    assert named.param_groups[0]["param_names"] == ["first", "second"]


@pytest.mark.parametrize(
    "changed",
    [{"polar_dtype": torch.float32}, {"polar_dtype": "float32"}, {"nesterov": False}, {"normuon": "rows"},
     {"ns_coefficients": [1.5, -0.5, 0.0]}, {"ns_steps": 2}, {"adjust_lr_fn": "none"}, {"weight_decay": 0.5},
     {"orthogonalizer": "svd"}, {"eps": 100.0}, {"geodesic": "lr", "sphere_dim": 0, "weight_decay": 0.0}],
    ids=str,
)  # fmt: skip
def test_an_option_that_is_changed_later_acts_from_the_next_step_on(changed: dict[str, Any]) -> None:
    ends = []
    for at_once in (True, False, None):
        parameters = drawn()
        optimizer = SimpleMuon(parameters, **{"lr": 0.02, **(changed if at_once else {})})
        if at_once is False:
            optimizer.param_groups[0].update(changed)
        run(parameters, optimizer, [0])
        ends.append(parameters)
    assert same_bits(ends[0], ends[1]) and not same_bits(ends[1], ends[2])


@pytest.mark.parametrize(
    "wrong", [{"polar_dtype": torch.int32}, {"lr": math.nan}, {"momentum": 1.0}, {"tangent": "in"}]
)
def test_an_invalid_value_that_is_set_later_is_refused_at_the_step(wrong: dict[str, Any]) -> None:
    parameters = drawn()
    optimizer = SimpleMuon(parameters, lr=0.02)
    run(parameters, optimizer, [0])
    optimizer.param_groups[0].update(wrong)
    for _ in range(2):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            optimizer.step()


def test_a_check_of_unchanged_options_costs_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = SimpleMuon([{"params": [parameter]} for parameter in drawn()])
    monkeypatch.setattr(admission, "check_options", None)  # not called
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    seconds = min(timeit.repeat(optimizer._check_changes, number=100, repeat=5)) / 100 / len(optimizer.param_groups)
    assert seconds < 20e-6
