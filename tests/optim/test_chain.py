"""All options of SimpleMuon together: every accepted combination matches the oracle, and every option has an effect."""

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from cases import gradients, points
from oracles import optimizers as oracle
from torch import nn
from torch.optim import _muon

from ngpt.config import OptimConfig, RunConfig
from ngpt.errors import InputError
from ngpt.model import build_model
from ngpt.optim import steps
from ngpt.optim.build import build_optimizers
from ngpt.optim.muon import SimpleMuon
from ngpt.presets import resolve

Options = dict[str, Any]
VALUES: dict[str, list[Any]] = {
    "geodesic_muon": [None, "lr", "lr-norm"],
    "tangent": ["none", "gradient", "before", "after", "both"],
    "momentum_transport": ["none", "project", "parallel", "rotate"],
    "match_step": ["none", "rms", "angle"],
    "normuon": [None, "short-axis", "rows"],
    "decay": ["none", "plain", "cautious"],
}
"""Every option, its plain value first; "decay" stands for two fields"""

DECAYS: dict[str, Options] = {
    "none": {},
    "plain": {"weight_decay": 0.5},
    "cautious": {"weight_decay": 0.5, "cautious_wd": True},
}
ALL = [dict(zip(VALUES, values, strict=True)) for values in itertools.product(*VALUES.values())]


def fields(options: Options) -> Options:
    """Return options as fields of the configuration."""
    return {name: value for name, value in options.items() if name != "decay"} | DECAYS[options["decay"]]


def refusal(options: Options) -> str | None:
    """Return the message with which the configuration rejects a combination, or None."""
    try:
        RunConfig(optim=OptimConfig(**fields(options)))
    except InputError as error:
        return str(error)
    return None


ACCEPTED = [options for options in ALL if refusal(options) is None]
GEODESIC = ["lr", "lr-norm"]


# --- what is refused -------------------------------------------------------------------------------------------------


def reasons(options: Options) -> list[str]:
    """Return the flags that would have no effect, by an independent list of rules."""
    geodesic, decay = options["geodesic_muon"], options["decay"]
    found = []
    if geodesic is not None and decay == "plain":
        found.append("--weight-decay")
    if options["momentum_transport"] == "rotate" and options["tangent"] in ("before", "both"):
        found.append("--momentum-transport")
    if options["momentum_transport"] in ("parallel", "rotate") and options["tangent"] == "gradient":
        found.append("--tangent")
    if decay != "cautious":  # the size of the update against the decay is a direction
        found += ["--normuon"] * (geodesic == "lr" and options["normuon"] is not None)
        found += ["--match-step"] * (geodesic == "lr" and options["match_step"] != "none")
        found += ["--tangent"] * (geodesic is not None and options["tangent"] in ("after", "both"))
    return found


def test_a_combination_is_refused_for_the_flag_that_it_names_or_accepted() -> None:
    for options in ALL:
        line, expected = refusal(options), reasons(options)
        assert (line is None) == (not expected), options
        if line is not None:
            assert any(line.startswith(name) for name in expected) and "no effect" in line and "\n" not in line
    assert len(ACCEPTED) == 810


@pytest.mark.parametrize(
    ("given", "name"),
    [({"cautious_wd": True}, "--cautious-wd"), ({"momentum_transport": "project", "momentum": 0.0},
     "--momentum-transport"), ({"match_step": "rms", "orthogonalizer": "svd"}, "--match-step")],
)  # fmt: skip
def test_a_flag_that_needs_another_is_refused(given: Options, name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} .*no effect"):
        OptimConfig(**given)


def test_momentum_that_ends_at_zero_is_carried_until_then() -> None:
    OptimConfig(momentum_transport="project", momentum=0.0, momentum_start=0.9)


NEEDS_SPHERE: list[Options] = [
    {"geodesic": "lr"}, {"geodesic": "lr-norm"}, *({"tangent": where} for where in VALUES["tangent"][1:]),
    {"momentum_transport": "project"}, {"momentum_transport": "parallel"}, {"momentum_transport": "rotate"},
    {"match_step": "angle"},
]  # fmt: skip


@pytest.mark.parametrize("options", NEEDS_SPHERE, ids=str)
def test_what_needs_unit_vectors_is_refused_without_them(options: Options) -> None:
    matrices = [nn.Parameter(torch.zeros(4, 6))]
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} ?=.*sphere_dim"):
        SimpleMuon(matrices, weight_decay=0.0, **options)
    SimpleMuon(matrices, weight_decay=0.0, sphere_dim=0, **options)
    flag = "geodesic_muon" if name == "geodesic" else name
    with pytest.raises(InputError, match=f"--{flag.replace('_', '-')}.*--arch gpt"):
        resolve(arch="gpt", **{flag: options[name]})


@pytest.mark.parametrize(
    "wrong",
    [{"geodesic": "angle"}, {"geodesic": "none"}, {"tangent": "inside"}, {"tangent": None}, {"match_step": None},
     {"momentum_transport": "linear"}, {"normuon": "columns"}, {"normuon": True}, {"sphere_dim": 2},
     {"sphere_dim": -3}, {"beta2": 1.0}, {"beta2": -0.1}],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_is_refused_by_simple_muon(wrong: Options) -> None:
    matrices = [nn.Parameter(torch.zeros(4, 6))]
    with pytest.raises(ValueError):
        SimpleMuon(matrices, **{"weight_decay": 0.0, "sphere_dim": -1, **wrong})
    optimizer = SimpleMuon(matrices, weight_decay=0.0, sphere_dim=-1)
    with pytest.raises(ValueError):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(4, 6))], **wrong})
    assert len(optimizer.param_groups) == 1


# --- the oracle's chain ----------------------------------------------------------------------------------------------

PAIR: list[tuple[tuple[int, int], int]] = [((4, 6), -1), ((4, 6), 0)]
"""Matrices of one shape, so that they are orthogonalized together, with vectors along different dimensions"""

OTHERS: list[tuple[tuple[int, int], int]] = [((6, 4), -1), ((6, 4), 0), ((5, 5), -1), ((5, 5), 0), ((3, 5), 0)]
COUNT = 3
RULE: Options = {"lr": 0.2, "momentum": 0.8, "beta2": 0.7, "adjust_lr_fn": "match_rms_adamw"}

ROUNDING = 1e-13
"""Five Newton-Schulz steps amplify a rounding by up to 485"""


def orthogonalized(G: np.ndarray) -> np.ndarray:
    return oracle.polynomial_polar(G, [(_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)] * 5)


def ours(options: Options, matrices: list[tuple[tuple[int, int], int]]) -> list[list[np.ndarray]]:
    """Return weight and momentum of each matrix after each step, all in one optimizer."""
    given = fields(options)
    given["geodesic"] = given.pop("geodesic_muon")
    parameters = [nn.Parameter(torch.tensor(points(shape, dim))) for shape, dim in matrices]
    groups = [
        {"params": [p for p, (_, of) in zip(parameters, matrices, strict=True) if of == dim], "sphere_dim": dim}
        for dim in dict.fromkeys(dim for _, dim in matrices)
    ]
    optimizer = SimpleMuon(groups, polar_dtype=torch.float64, **{"weight_decay": 0.0, **RULE, **given})
    trace: list[list[np.ndarray]] = [[] for _ in matrices]
    for number in range(COUNT):
        for parameter in parameters:
            parameter.grad = torch.tensor(gradients(tuple(parameter.shape), COUNT)[number])
        optimizer.step()
        for parameter, found in zip(parameters, trace, strict=True):
            momentum = optimizer.state[parameter]["momentum_buffer"]
            found.append(torch.stack([parameter.detach(), momentum]).numpy().copy())
    return trace


def oracle_rule(options: Options) -> Options:
    """Return options as the oracle's arguments."""
    given = fields(options)
    return RULE | {
        "tangent": given["tangent"], "match_step": given["match_step"], "normuon_axis": given["normuon"],
        "geodesic": given["geodesic_muon"], "momentum_transport": given["momentum_transport"],
        "weight_decay": given.get("weight_decay", 0.0), "cautious": given.get("cautious_wd", False),
    }  # fmt: skip


def wanted(options: Options, matrices: list[tuple[tuple[int, int], int]]) -> list[list[np.ndarray]]:
    rule = oracle_rule(options)
    return [
        [np.stack(pair) for pair in oracle.sphere_muon(
            points(shape, dim), gradients(shape, COUNT), dim=dim, orthogonalize=orthogonalized, **rule)]
        for shape, dim in matrices
    ]  # fmt: skip


def error(got: list[list[np.ndarray]], want: list[list[np.ndarray]]) -> float:
    return float(max(np.abs(np.stack(a) - np.stack(b)).max() for a, b in zip(got, want, strict=True)))


BY_HEAD = [
    pytest.param(dict(zip(list(VALUES)[:3], values, strict=True)), id="-".join(map(str, values)))
    for values in itertools.product(*list(VALUES.values())[:3])
]


@pytest.mark.parametrize("head", BY_HEAD)
def test_every_accepted_combination_is_the_oracles_chain(head: Options) -> None:
    for options in ACCEPTED:
        if head.items() <= options.items():
            assert error(ours(options, PAIR), wanted(options, PAIR)) < ROUNDING, options


@pytest.mark.parametrize("options", ACCEPTED[::23], ids=lambda options: "-".join(map(str, options.values())))
def test_combinations_on_matrices_of_other_shapes(options: Options) -> None:
    want = wanted(options, OTHERS)
    assert error(ours(options, OTHERS), want) < ROUNDING
    for name, values in VALUES.items():  # another value of any option is another chain
        for value in values:
            changed = {**options, name: value}
            if changed != options and changed in ACCEPTED:
                assert error(ours(changed, OTHERS), want) > 1e-6, (name, value)


@pytest.mark.parametrize(
    ("name", "mutation"),
    [
        ("momentum", lambda M, G, mu, out: out.copy_(M.lerp(G, mu))),
        ("match_rms", lambda O: O),
        ("match_angle", lambda W, O, dim: O),
        ("variance_reduction", lambda O, V, beta2: (O, V)),
        ("decay_mask", lambda W, O: W * O < 0),
        ("decay", lambda W, lr, weight_decay, mask=None: W),
        ("linear_move", lambda W, O, lr, out=None: torch.add(W, O, alpha=lr, out=out)),
        ("geodesic_move", lambda W, O, lr, mode, dim, factor, out: out.copy_(W - lr * factor * O)),
        ("transport", lambda M, W, W_next, how, dim: M),
        ("shape_factor", lambda shape, rule: 1.0),
    ],
)
def test_a_wrong_link_is_rejected(name: str, mutation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried in every combination that includes the link."""
    links = {
        "match_rms": ("match_step", ["rms"]),
        "match_angle": ("match_step", ["angle"]),
        "variance_reduction": ("normuon", ["short-axis", "rows"]),
        "decay_mask": ("decay", ["cautious"]),
        "decay": ("decay", ["plain", "cautious"]),
        "linear_move": ("geodesic_muon", [None]),
        "geodesic_move": ("geodesic_muon", GEODESIC),
        "transport": ("momentum_transport", ["project", "parallel", "rotate"]),
    }
    option, values = links.get(name, ("tangent", VALUES["tangent"]))
    monkeypatch.setattr(steps, name, mutation)
    for options in ACCEPTED[::23]:
        if options[option] not in values or (name == "decay" and options["geodesic_muon"] is not None):
            continue
        if name == "shape_factor" and (options["match_step"] == "angle" or fixed_and_plain(options)):
            continue  # there the factor cancels
        assert error(ours(options, PAIR), wanted(options, PAIR)) > 1e-6, options


def fixed_and_plain(options: Options) -> bool:
    return options["geodesic_muon"] == "lr" and options["decay"] == "none"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_no_link_writes_to_its_arguments(dtype: torch.dtype) -> None:
    W, O, M = (torch.tensor(points((3, 4, 6), -1, seed), dtype=dtype) for seed in range(3))
    V = torch.zeros((3, 4, 1), dtype=torch.promote_types(dtype, torch.float32))
    mask = steps.decay_mask(W, O)
    given = [W, O, M, V, mask]
    before = [tensor.clone() for tensor in given]
    results = [steps.match_rms(O), steps.match_angle(W, O, dim=-1), *steps.variance_reduction(O, V, 0.9),
               steps.decay(W, 0.1, 0.5, mask)]  # fmt: skip
    results += [steps.geodesic_move(W, O, 0.1, mode, dim=-1) for mode in ("lr", "lr-norm")]
    results += [steps.transport(M, W, O, how, dim=-1) for how in VALUES["momentum_transport"][1:]]
    assert all(result.data_ptr() != tensor.data_ptr() for result in results for tensor in given)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))
    weights = [results[index] for index in (4, 5, 6)]
    assert all(result.dtype == dtype for result in [*weights, *results[7:]]), "weights and momentum keep their dtype"


# --- no flag is idle -------------------------------------------------------------------------------------------------


@functools.cache
def weights_of(*given: tuple[str, Any], arch: str = "gated-ngpt") -> list[np.ndarray]:
    """Return the hidden weights of a tiny model at the start and after each of three steps."""
    config = resolve(
        "tiny", arch=arch, n_layer=1, n_embd=12, n_head=2, seq_len=8, **{"lr": 0.1, "momentum": 0.8, **dict(given)}
    )
    model = build_model(config.model, 17, seed=0)
    optimizers = build_optimizers(model, config)
    parameters = [p for group in optimizers.hidden.param_groups for p in group["params"]]
    found = []
    for number in range(COUNT + 1):
        found.append(torch.cat([p.detach().flatten() for p in parameters]).numpy().copy())
        if number < COUNT:
            for parameter in parameters:
                G = gradients(tuple(parameter.shape), COUNT)[number]
                parameter.grad = torch.tensor(G, dtype=torch.float32)
            optimizers.schedule(step=number, progress=0.0)
            optimizers.hidden.step()
    return found


def change(options: Options, others: Options, step: int, arch: str = "gated-ngpt") -> float:
    """Return how far the weights of two configurations differ after `step` steps, relative to how far they moved."""
    one, other = (weights_of(*sorted(given.items()), arch=arch) for given in (options, others))
    return float(np.linalg.norm(one[step] - other[step]) / np.linalg.norm(other[step] - other[0]))


LATER = {"momentum_transport": 2, "beta2": 2, "momentum": 2, "nesterov": 2}
"""Flags whose first effect is in the second step: the first momentum is a multiple of the gradient, and the first
second moment of the update's square."""

ROUNDED = 1e-5
"""Two float32 computations of the same step differ by less"""


def shown(options: Options) -> Options:
    """Return the fields that differ from their plain values."""
    return {name: value for name, value in fields(options).items() if value not in ("none", None)}


@pytest.mark.parametrize("name", VALUES)
def test_every_option_changes_the_weights_in_every_combination(name: str) -> None:
    checked = 0
    for options in ACCEPTED:
        without = {**options, name: VALUES[name][0]}
        if options[name] == VALUES[name][0] or without not in ACCEPTED:
            continue
        step = LATER.get(name, 1)
        if (
            name == "momentum_transport" and options[name] == "project" and options["tangent"] in ("before", "both")
        ):  # fmt: skip
            # the input loses its part along the vectors, whether the momentum has lost it before or not; what it had
            # along an earlier direction of the vector comes a step later
            assert change(shown(options), shown(without), 2) < ROUNDED, options
            step = 3
        assert change(shown(options), shown(without), step) > 10 * ROUNDED, options
        checked += 1
    assert checked > 100


@pytest.mark.parametrize("name", VALUES)
def test_two_values_of_an_option_are_two_steps(name: str) -> None:
    for options in ACCEPTED[::7]:
        for value in VALUES[name]:
            changed = {**options, name: value}
            if changed != options and changed in ACCEPTED:
                assert change(shown(options), shown(changed), 3) > 10 * ROUNDED, (options, value)


@pytest.mark.parametrize("tangent", ["before", "both"])
@pytest.mark.parametrize("mode", [None, "lr-norm"])
def test_that_a_rotated_momentum_is_refused_with_a_tangent_input_is_right(
    mode: Any, tangent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It differs from a parallel one only by a part along the vectors, which a tangent input removes."""
    monkeypatch.setattr("ngpt.refusals.first_refusal", lambda *_: None)
    options: Options = {"tangent": tangent, **({} if mode is None else {"geodesic_muon": mode})}
    rotated, parallel = ({**options, "momentum_transport": how} for how in ("rotate", "parallel"))
    assert change(rotated, parallel, 3) < ROUNDED < change(parallel, options, 3)


BASES: list[Options] = [
    {}, {"geodesic_muon": "lr"}, {"geodesic_muon": "lr-norm"},
    {"geodesic_muon": "lr", "weight_decay": 0.5, "cautious_wd": True}, {"match_step": "angle"},
    {"normuon": "rows", "match_step": "rms", "tangent": "after"},
]  # fmt: skip
SINGLE: list[Options] = [
    *({"orthogonalizer": value} for value in ("newton-schulz-cubic", "you", "polar-express", "svd")),
    {"orthogonalizer": "newton-schulz-literal"},
    {"ns_steps": 4}, {"adjust_lr_fn": "none"}, {"adjust_lr_fn": "match_rms_adamw"}, {"momentum": 0.5},
    {"momentum_start": 0.1}, {"nesterov": False}, {"beta2": 0.5}, {"weight_decay": 0.25}, {"lr": 0.11},
]  # fmt: skip


@pytest.mark.parametrize("single", SINGLE, ids=str)
@pytest.mark.parametrize("base", BASES, ids=str)
def test_every_other_flag_of_muon_acts_or_is_refused(base: Options, single: Options) -> None:
    (name,) = single
    try:
        resolve(**{**base, **single})
    except InputError as error:
        assert "no effect" in str(error)
        return
    assert change({**base, **single}, base, LATER.get(name.removesuffix("_start"), 1)) > 10 * ROUNDED


@pytest.mark.parametrize("single", [{"match_step": "rms"}, {"normuon": "short-axis"}, {"normuon": "rows"},
                                    {"weight_decay": 0.5, "cautious_wd": True}], ids=str)  # fmt: skip
@pytest.mark.parametrize("arch", ["gpt", "ngpt", "gated-literal"])
def test_options_act_on_every_architecture(arch: str, single: Options) -> None:
    assert change(single, {}, 1, arch) > 10 * ROUNDED
