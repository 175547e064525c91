"""Options and refusals: one declaration per option, reasons in the names that the caller knows, a complete registry."""

import re
import typing
from typing import Any

import pytest
import torch
from torch import nn

from ngpt.config import SECTIONS, OptimConfig, RunConfig, Runtime, flatten, muon_refusal, option, step_options
from ngpt.errors import InputError
from ngpt.optim.muon import SimpleMuon
from ngpt.presets import PRESETS, resolve
from ngpt.refusals import REFUSALS, choices_of, first_refusal, flag_name, refusals_of
from ngpt.registry import OPTIMIZERS

KINDS = (RunConfig, *SECTIONS.values(), Runtime)
OPTIONS = {name for kind in KINDS for name in typing.get_type_hints(kind)}
OPTIONS |= {"sphere_dim", "ns_coefficients", "eps"}  # of SimpleMuon alone
EVERY = refusals_of(*KINDS)
GROUP: dict[str, Any] = SimpleMuon([nn.Parameter(torch.zeros(4, 6))], weight_decay=0.0).param_groups[0]


def test_every_refusal_reads_and_names_options_that_exist() -> None:
    assert set(REFUSALS) < set(EVERY) and len(EVERY) > 100
    for refusal in EVERY:
        named = {name or value for name, value in re.findall(r"{(\w*)=?([^}]*)}", refusal.reason)}
        assert named and named | set(refusal.reads) <= OPTIONS, refusal.reason
        assert refusal.given in OPTIONS | {None}


def test_the_step_options_are_keywords_of_simple_muon_with_its_defaults() -> None:
    options = step_options()
    assert list(options)[:3] == ["orthogonalizer", "match_step", "geodesic"]
    assert options["geodesic"].name == "geodesic_muon"
    for name, one in options.items():
        assert one.default == GROUP[name] and not one.metadata["reads"](one.default)


def test_a_step_option_says_when_the_step_depends_on_the_weights() -> None:
    expected = {
        "geodesic": ["lr", "lr-norm"], "tangent": ["gradient", "before", "after", "both"], "match_step": ["angle"],
        "momentum_transport": ["project", "parallel", "rotate"], "orthogonalizer": [], "normuon": [],
    }  # fmt: skip
    options, hints = step_options(), typing.get_type_hints(OptimConfig)
    reads = {name: one.metadata["reads"] for name, one in options.items()}
    for name, values in expected.items():
        assert [value for value in choices_of(hints[options[name].name]) if reads[name](value)] == values
    assert reads["cautious_wd"](True) and not reads["beta2"](0.5)
    assert option("off", step=True).metadata["reads"]("a value nobody thought of"), "a new option is safe by default"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({}, None), ({"normuon": "rows", "geodesic": "lr", "sphere_dim": 0}, None), ({"cautious_wd": True}, None),
     ({"lr": 0.0, "weight_decay": 1e9}, None), ({"lr": float("nan")}, "lr must be finite and not negative: nan"),
     ({"geodesic": "lr"}, "geodesic='lr' needs unit vectors, so give their sphere_dim"),
     ({"geodesic": "angle"}, "geodesic must be one of lr, lr-norm, None: angle"),
     ({"beta2": 1.0}, "beta2 must lie in [0, 1): 1.0"),
     ({"sphere_dim": 2}, "sphere_dim must be 0, 1, -1, -2 or None: 2"),
     ({"orthogonalizer": "you", "ns_steps": 4},
      "orthogonalizer='you' is a schedule of exactly 5 iterations, not ns_steps=4"),
     ({"geodesic": "lr", "sphere_dim": 0, "weight_decay": 0.1},
      "weight_decay has no effect with geodesic: decay of all entries points along the unit vectors; with cautious_wd "
      "it has a direction")],
    ids=str,
)  # fmt: skip
def test_simple_muon_refuses_what_makes_a_step_impossible_in_its_own_keywords(
    changed: dict[str, Any], reason: str | None
) -> None:
    assert muon_refusal(GROUP | changed) == reason


def test_a_configuration_refuses_the_same_in_flags() -> None:
    with pytest.raises(InputError, match=r"^--geodesic-muon lr needs unit vectors, and --arch gpt has none$"):
        resolve(geodesic_muon="lr", arch="gpt")
    with pytest.raises(InputError, match=r"^--tangent must be one of none, gradient, before, after, both: inside$"):
        OptimConfig(tangent="inside")  # type: ignore[arg-type]


def test_the_first_refusal_decides() -> None:
    values = {"n_embd": 30, "n_head": 0}
    expected = "--n-head must be positive and below 2**63: 0"
    assert first_refusal(values, refusals_of(SECTIONS["model"]), flag_name) == expected
    assert first_refusal({"n_embd": 30}, EVERY, flag_name) is None, "what reads an unknown option does not apply"


def test_every_optimizer_has_a_rate_for_every_preset() -> None:
    for name, entry in OPTIMIZERS.items():
        assert set(entry.defaults) == set(PRESETS)
        for preset, fields in entry.defaults.items():
            assert "lr" in fields
            found = flatten(resolve(preset, optimizer=name))
            assert fields.items() <= found.items()
            given = {field: value / 2 for field, value in fields.items()}
            assert given.items() <= flatten(resolve(preset, optimizer=name, **given)).items()
    assert OPTIMIZERS["muon"].stays_on_sphere(OptimConfig(geodesic_muon="lr"))
    assert not any(entry.stays_on_sphere(OptimConfig()) for entry in OPTIMIZERS.values())
    with pytest.raises(InputError, match="--optimizer must be adam, muon, module:Class or file.py:Class: sgd"):
        resolve(optimizer="sgd")
