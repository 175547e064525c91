"""Telemetry: each figure by hand from weights moved by known angles and lengths; what runs of each step rule show."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import optimizers as oracle
from oracles import sphere as sphere_oracle
from small_runs import Undisturbed, killed, outcome, small, start
from torch import nn

from ngpt.command import summary
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.projection import LazyProjection
from ngpt.presets import resolve
from ngpt.training.record import read_metrics, read_record
from ngpt.training.sharding import ParameterSharding
from ngpt.training.telemetry import LIMIT, LogitScale, Telemetry

ROLES = ("hidden", "embedding", "head")
Array = np.ndarray


def watched(arch: Any = "gated-ngpt") -> tuple[nn.Module, LazyProjection, Telemetry]:
    """A model in float64, a step of which is about to be measured."""
    model = build_model(resolve(arch=arch, n_layer=2, n_embd=24, n_head=4, seq_len=8).model, 17, seed=0).double()
    specs = parameter_specs(model)
    projection = LazyProjection(dict(model.named_parameters()), specs, every=1)
    projection.project()
    telemetry = Telemetry(model, specs, projection, ParameterSharding(model, specs), every=0)
    telemetry.remember()
    return model, projection, telemetry


def moved(model: nn.Module, factor: float = 1.0) -> dict[str, tuple[list[Array], float, float]]:
    """Turn every vector by an angle of its own and stretch it; return angles, radial and whole squares by role."""
    rng = np.random.default_rng(0)
    found: dict[str, tuple[list[Array], float, float]] = {role: ([], 0.0, 0.0) for role in ROLES}
    for name, parameter in model.named_parameters():
        spec = parameter_specs(model)[name]
        if spec.sphere_dim is None:
            continue
        x = parameter.detach().numpy().copy()
        one_each = np.sum(x, axis=spec.sphere_dim, keepdims=True).shape
        theta, stretch = rng.uniform(0.01, 0.2, one_each), 1 + 0.1 * factor * rng.uniform(-1, 1, one_each)
        u = sphere_oracle.project(sphere_oracle.tangent(x, rng.normal(size=x.shape), spec.sphere_dim), spec.sphere_dim)
        y = stretch * sphere_oracle.exp(x, theta * u, spec.sphere_dim)
        with torch.no_grad():
            parameter.copy_(torch.tensor(y))
        angles, radial, whole = found[spec.role]
        along = ((y - x) * x).sum(spec.sphere_dim)
        found[spec.role] = ([*angles, theta.ravel()], radial + (along**2).sum(), whole + ((y - x) ** 2).sum())
    return found


@pytest.mark.parametrize("arch", ["gated-ngpt", "ngpt", "gated-literal"])
@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_rotation_its_spread_and_the_radial_share_by_hand(arch: Any, factor: float) -> None:
    model, _, telemetry = watched(arch)
    wanted = moved(model, factor)
    figures = telemetry.measure()
    for role, (angles, radial, whole) in wanted.items():
        theta = np.concatenate(angles)
        assert figures[f"rotation_{role}_rad"] == pytest.approx(theta.mean(), rel=1e-9)
        assert figures[f"rotation_spread_{role}"] == pytest.approx(theta.std(ddof=1) / theta.mean(), rel=1e-9)
        assert figures[f"radial_share_{role}"] == pytest.approx(math.sqrt(radial / whole), rel=1e-9)
    assert telemetry.before == {}


def test_a_step_that_moves_nothing_has_no_spread_and_no_share() -> None:
    figures = watched()[2].measure()
    assert all(figures[f"rotation_{role}_rad"] == 0.0 for role in ROLES) and figures["orthogonality_error"] == 0.0
    assert not any(name.startswith(("rotation_spread", "radial_share", "drift")) for name in figures)


def test_the_drift_is_that_of_the_latest_projection_by_role() -> None:
    model, projection, telemetry = watched()
    for role, factor in (("embedding", 1.25), ("head", 0.5)):
        with torch.no_grad():
            model.get_parameter(f"{role}.weight").mul_(factor)
    projection.after_step(1)
    with torch.no_grad():
        model.head.weight.mul_(3.0)  # has not been projected yet
    figures = telemetry.measure()
    drift = {role: figures[f"drift_{role}"] for role in ROLES}
    assert drift == pytest.approx({"hidden": 0.0, "embedding": 0.25, "head": 0.5}, abs=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_updates_that_are_multiples_of_polar_factors_are_orthogonal(size: float) -> None:
    for exact in (True, False):
        model, _, telemetry = watched()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter_specs(model)[name].role == Role.HIDDEN:
                    G = np.random.default_rng(0).normal(size=tuple(parameter.shape))
                    parameter.sub_(torch.tensor(size * (oracle.polar_exact(G) if exact else G)))
        assert (telemetry.measure()["orthogonality_error"] < 1e-5) == exact


STEPS: dict[str, dict[str, Any]] = {
    "linear": {},
    "lr": {"geodesic_muon": "lr"},
    "lr-norm": {"geodesic_muon": "lr-norm"},
    "matched": {"geodesic_muon": "lr-norm", "match_step": "angle"},
    "tangent": {"tangent": "after"},
}


@pytest.mark.parametrize("name", STEPS)
def test_what_a_run_of_each_step_rule_shows(data: str, undisturbed: Undisturbed, name: str) -> None:
    """The rate is 0.02; telemetry comes at steps 1, 4, 8 and 12, projections after 5 and 10."""
    found = [row for row in undisturbed(small(data, **STEPS[name]))[-1] if "rotation_hidden_rad" in row]
    assert [row["step"] for row in found] == [1, 4, 8, 12]
    geodesic, fixed = name in ("lr", "lr-norm", "matched"), name == "lr"
    for row in found:
        theta, spread = row["rotation_hidden_rad"], row["rotation_spread_hidden"]
        share = row["radial_share_hidden"]
        if name in ("lr", "matched"):
            assert theta == pytest.approx(0.02, rel=1e-5)  # a stored vector is known to 6e-8
        assert (spread < 1e-5) == fixed
        if geodesic:  # the chord of an arc leans inwards by half its angle
            squares = theta**2 * (1 + spread**2)
            assert 0.9 * math.sqrt(squares) < 2 * share < 1.5 * math.sqrt(squares) + 1e-6
        else:
            assert (share < 1e-6) == (name == "tangent")
        assert ("drift_hidden" in row) == (row["step"] > 5)
        if row["step"] > 5:
            assert (row["drift_hidden"] < 1e-6) == geodesic
            assert row["drift_embedding"] > 1e-5 < row["drift_head"]


@pytest.mark.parametrize(("every", "interval", "measured"), [(4, 5, 2), (3, 2, 4), (8, 2, 1), (1, 1, 12), (0, 3, 0)])
def test_drift_is_measured_only_where_it_is_read(
    data: str, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, every: int, interval: int,
    measured: int,
) -> None:  # fmt: skip
    """By hand for 12 steps: the projections at or after which a multiple of `every` comes before the next one."""
    config = small(data, telemetry_every=every, lazy_proj_freq=interval)
    expected, calls, drift, after_step = undisturbed(config), [], LazyProjection.drift, LazyProjection.after_step
    monkeypatch.setattr(LazyProjection, "drift", lambda self: calls.append(1) or drift(self))
    start(config, tmp_path / "counted")
    assert len(calls) == measured
    monkeypatch.setattr(LazyProjection, "after_step", lambda self, step, *, measure: after_step(self, step))
    assert outcome(start(config, tmp_path / "always")[0]) == expected


# --- the logit scale -------------------------------------------------------------------------------------------------


def test_the_pace_of_the_logit_scale_by_hand() -> None:
    """Width 16: it starts at 4 and is stored as 1/4, so AdamW's rate moves it by 16 times as much."""
    model = build_model(resolve(n_layer=1, n_embd=16, n_head=2, seq_len=8).model, 17, seed=0).double()
    watch = LogitScale(model)
    assert watch.measure() == pytest.approx({"logit_scale_mean": 4.0}) and not watch.limits()
    for rate, climb in ((0.02, 0.02), (0.01, -0.002)):
        watch.stepped(rate)
        with torch.no_grad():
            model.s_z.value.add_(climb)
    assert watch.measure() == pytest.approx({"logit_scale_mean": 4 + 0.018 * 16, "logit_scale_pace": 0.018 / 0.03})
    assert watch.limits()
    watch.stepped(0.01)
    with torch.no_grad():
        model.s_z.value.add_(0.99 * LIMIT * 0.01)
    assert watch.measure()["logit_scale_pace"] == pytest.approx(0.99 * LIMIT) and not watch.limits()
    assert LogitScale.STATE == set(watch.state)


@pytest.mark.parametrize("arch", ["gpt", "gated-literal"])
def test_a_model_without_a_learned_scale_has_no_figures_of_it(arch: Any) -> None:
    watch = LogitScale(build_model(resolve(arch=arch, n_layer=1, n_embd=16, n_head=2, seq_len=8).model, 17, seed=0))
    watch.stepped(1.0)
    assert watch.measure() == {} and not watch.limits()


def test_the_figures_of_a_run_are_sums_over_its_rates(data: str, tmp_path: Path) -> None:
    """A linear decay, a logged step each; measured at steps 1, 4, 8 and 12."""
    config = small(data, schedule="linear", logit_scale_init=2.0)
    rows = read_metrics(start(config, tmp_path)[0])
    measured = [row for row in rows if "logit_scale_mean" in row]
    assert [row["step"] for row in measured] == [1, 4, 8, 12] and "logit_scale_pace" not in measured[0]
    for before, after in zip(measured, measured[1:], strict=False):
        rates = [row["lr"] / 0.02 * 0.01 for row in rows[int(before["step"]) : int(after["step"])]]
        climb = after["logit_scale_mean"] - before["logit_scale_mean"]
        assert after["logit_scale_pace"] == pytest.approx(climb / (sum(rates) * 2.0 * 32**0.5), rel=1e-4)


@pytest.mark.parametrize(("init", "limited"), [(1.0, ["logit scale"]), ("sqrt-d", None)])
def test_a_run_says_whether_its_logit_scale_still_limits_it(
    data: str, tmp_path: Path, init: float | str, limited: list[str] | None
) -> None:
    """At these 200 steps and AdamW's usual rate its last pace is 0.6 from 1 and 0.2 from the root of the width."""
    config = small(data, steps=200, aux_lr=0.005, logit_scale_init=init, telemetry_every=11, eval_every=200)
    folder, record = start(config, tmp_path)
    assert record.limited_by == read_record(folder).limited_by == limited
    assert ("limited by: logit scale" in summary(record)) == (limited is not None)
    assert ("limited_by" in (folder / "record.json").read_text()) == (limited is not None)


def test_what_limits_a_run_survives_a_resume_between_two_measurements(
    data: str, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """Killed in step 8 with a checkpoint of step 6; measured at steps 1, 5 and 10."""
    config = small(data, logit_scale_init=1.0, telemetry_every=5)
    folder = killed(config, tmp_path)
    start(config, tmp_path, resume=True)
    assert outcome(folder) == undisturbed(config)
    assert read_record(folder).limited_by == ["logit scale"]
