"""The table of the paper: shapes, axes, scales and their initial values; and what every architecture must be."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ngpt.config import Arch, ModelConfig
from ngpt.model import build_model
from ngpt.model.control import ControlTransformer
from ngpt.model.layers import Linear
from ngpt.model.literal import LiteralTransformer
from ngpt.model.roles import Declared, ParameterSpec, Part, Role, parameter_specs
from ngpt.model.sphere_transformer import SphereTransformer
from ngpt.optim.build import build_optimizers
from ngpt.presets import PRESETS, resolve

ARCHS = get_args(Arch)
GPT2_VOCAB = 50_257
VOCAB, D, T = 17, 24, 8
EPS32 = torch.finfo(torch.float32).eps

ROWS, COLUMNS = -1, 0
ATTENTION_AND_MLP: dict[str, tuple[tuple[int, int], int]] = {
    "attention.q.weight": ((D, D), ROWS),
    "attention.k.weight": ((D, D), ROWS),
    "attention.v.weight": ((D, D), ROWS),
    "attention.o.weight": ((D, D), COLUMNS),
    "mlp.u.weight": ((4 * D, D), ROWS),
    "mlp.g.weight": ((4 * D, D), ROWS),
    "mlp.down.weight": ((D, 4 * D), COLUMNS),
}
"""arXiv 2410.01131, section 2.6: matrices that read the stream are unit along their input, those that write, output."""

LITERAL: dict[str, tuple[tuple[int, int], int]] = {
    "qkv.weight": ((3 * D, D), ROWS),
    "o.weight": ((D, D), ROWS),
    "fc1.weight": ((4 * D, D), ROWS),
    "fc2.weight": ((D, 4 * D), ROWS),
}


def table(arch: str) -> dict[str, tuple[tuple[int, int], int | None]]:
    """Shape and unit axis of every matrix of two blocks."""
    rows: dict[str, tuple[tuple[int, int], int | None]] = {
        "embedding.weight": ((VOCAB, D), ROWS),
        "head.weight": ((VOCAB, D), ROWS),
    }
    if arch == "gated-literal":
        rows["position.weight"] = ((T, D), ROWS)
    for i in (0, 1):
        for name, (shape, dim) in (LITERAL if arch == "gated-literal" else ATTENTION_AND_MLP).items():
            if arch == "gated-ngpt" and name.startswith("mlp"):
                shape = tuple(8 * D // 3 if side == 4 * D else side for side in shape)
            rows[f"blocks.{i}.{name}"] = (shape, dim)
    return {name: (shape, None) for name, (shape, _) in rows.items()} if arch == "gpt" else rows


def model_of(arch: str, seed: int = 0, **overrides: Any) -> nn.Module:
    config = resolve("tiny", **{"arch": arch, "n_layer": 2, "n_embd": D, "n_head": 4, "seq_len": T, **overrides})
    return build_model(config.model, VOCAB, seed=seed)


def ids_of(seed: int = 0, batch: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, (batch, T)))


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, dims=1).flatten())


def assert_axes(model: nn.Module, arch: str) -> None:
    """Every matrix has the table's shape, is unit along the table's axis, and along the other it is not."""
    expected = table(arch)
    matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim == 2}
    assert matrices.keys() == expected.keys()
    for name, (shape, dim) in expected.items():
        weight = matrices[name].detach().double()
        assert tuple(weight.shape) == shape, name
        defects = {axis: (weight.norm(dim=axis) - 1).abs().max().item() for axis in (0, -1)}
        for axis, defect in defects.items():
            assert defect < 4 * EPS32 if axis == dim else defect > 0.05, (name, axis)


@pytest.mark.parametrize("arch", ["ngpt", "gated-ngpt", "gpt"])
def test_shapes_and_unit_axes_at_initialisation(arch: str) -> None:
    assert_axes(model_of(arch), arch)


def test_the_earlier_attempts_weights_start_as_pytorchs_layers_draw_them() -> None:
    model = model_of("gated-literal", n_embd=96)
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            drawn = weight.detach().double()
            largest = drawn.abs().max().item() * drawn.size(1) ** 0.5
            if "embedding" in name or "position" in name:
                assert drawn.std().item() == pytest.approx(1.0, rel=0.1) and largest > 20, name
            else:
                norms = drawn.norm(dim=1)
                torch.testing.assert_close(norms, torch.full_like(norms, 3**-0.5), rtol=0.25, atol=0.0, msg=name)
                assert 0.95 < largest <= 1 + EPS32, name


@pytest.mark.parametrize("name", ["embedding.weight", "position.weight", "head.weight"])
def test_the_earlier_attempt_normalizes_its_vectors_in_every_pass(name: str) -> None:
    model, ids = model_of("gated-literal").double(), ids_of()
    with torch.no_grad():
        logits = model(ids)
        model.get_parameter(name).mul_(torch.linspace(0.5, 2, model.get_parameter(name).size(0)).unsqueeze(1))
        torch.testing.assert_close(model(ids), logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("arch", ["ngpt", "gated-ngpt", "gated-literal"])
def test_unit_axes_after_every_step(arch: str, optimizer: str) -> None:
    config = resolve("tiny", arch=arch, n_layer=2, n_embd=D, n_head=4, seq_len=T, optimizer=optimizer, lazy_proj_freq=1)
    model = build_model(config.model, VOCAB, seed=0)
    optimizers = build_optimizers(model, config)
    for step in (1, 2, 3):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        loss_of(model, ids_of(step)).backward()
        optimizers.move()
        optimizers.projection.after_step(step)
        model.zero_grad()
        assert_axes(model, arch)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


SCALES: dict[str, tuple[str, float, float, float]] = {
    # name: (shape, effective initial value, stored initial value, constant factor of the code)
    "attention_step.a": ("D", 0.05, D**-0.5, 1.0),
    "mlp_step.a": ("D", 0.05, D**-0.5, 1.0),
    "attention.s_qk": ("D", 1.0, D**-0.5, 1.0),
    "mlp.s_u": ("F", 1.0, 1.0, D**0.5),
    "mlp.s_g": ("F", 1.0, 1.0, D**0.5),
}


@pytest.mark.parametrize("arch", ["ngpt", "gated-ngpt"])
def test_scales_have_the_papers_initial_and_stored_values(arch: str) -> None:
    model = model_of(arch)
    sizes = {"D": (D,), "F": (4 * D,) if arch == "ngpt" else (8 * D // 3,), "V": (VOCAB,), "scalar": ()}
    expected = {f"blocks.{i}.{name}": row for i in (0, 1) for name, row in SCALES.items()}
    expected["s_z"] = ("V", 1.0 if arch == "ngpt" else D**0.5, D**-0.5, 1.0)
    if arch == "gated-ngpt":
        expected |= {name: ("scalar", 0.15, 0.15, 1.0) for name in expected if name.endswith("step.a")}
    found = {name.removesuffix(".value") for name, _ in model.named_parameters() if name.endswith(".value")}
    assert found == expected.keys()
    for name, (shape, effective, stored, gain) in expected.items():
        scale = model.get_submodule(name)
        torch.testing.assert_close(scale.value, torch.full(sizes[shape], stored), rtol=EPS32, atol=0.0)
        torch.testing.assert_close(scale(), torch.full(sizes[shape], effective * gain), rtol=2 * EPS32, atol=0.0)
        with torch.no_grad():
            scale.value.mul_(3.0)
        torch.testing.assert_close(scale(), torch.full(sizes[shape], 3 * effective * gain), rtol=2 * EPS32, atol=0.0)


@pytest.mark.parametrize("arch", ["gated-ngpt", "gated-literal"])
def test_gates_start_at_their_logit_and_open_the_step(arch: str) -> None:
    model = model_of(arch, gate_init=-1.0, alpha=0.2)
    for i in (0, 1):
        for name in ("attention_step", "mlp_step"):
            step = model.get_submodule(f"blocks.{i}.{name}")
            assert torch.equal(step.gate, torch.full((D,), -1.0))
            size = 0.2 / (1 + math.e)
            torch.testing.assert_close(step.step_size(), torch.full((D,), size), rtol=4 * EPS32, atol=0.0)


def test_the_paper_residual_ignores_the_sign_and_the_gated_one_does_not() -> None:
    for arch, ignores in (("ngpt", True), ("gated-ngpt", False)):
        step = model_of(arch).get_submodule("blocks.0.mlp_step")
        before = step.step_size().detach().clone()
        with torch.no_grad():
            step.a.value.neg_()
        assert torch.equal(step.step_size(), before) == ignores


@pytest.mark.parametrize("arch", ARCHS)
def test_a_token_sees_itself_and_the_past_only(arch: str) -> None:
    model, ids = model_of(arch).double(), ids_of(batch=1)
    with torch.no_grad():
        logits = model(ids)[0]
        for t in range(T):
            changed = ids.clone()
            changed[0, t] = (changed[0, t] + 1) % VOCAB
            difference = (model(changed)[0] - logits).abs().amax(-1)
            assert (difference[:t] == 0).all()
            assert (difference[t:] > 1e-9).all()


@pytest.mark.parametrize("arch", ARCHS)
def test_a_batch_is_its_sequences_and_a_sequence_its_prefixes(arch: str) -> None:
    model, ids = model_of(arch).double(), ids_of(batch=3)
    with torch.no_grad():
        logits = model(ids)
        assert logits.shape == (3, T, VOCAB)
        tolerance: dict[str, float] = {"rtol": 0.0, "atol": 1e-13}  # float64, sums in another order
        for row in range(3):
            torch.testing.assert_close(model(ids[row : row + 1])[0], logits[row], **tolerance)
        for length in (1, 2, T - 1):
            torch.testing.assert_close(model(ids[:, :length]), logits[:, :length], **tolerance)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_trained_parameter_has_the_true_gradient(arch: str) -> None:
    """Along a random direction in each parameter, against a central difference: no branch is cut or scaled."""
    model, ids = model_of(arch).double(), ids_of(batch=12)
    assert len(ids.unique()) == VOCAB
    loss_of(model, ids).backward()
    rng = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert name == "logit_scale"
            continue
        gradient = parameter.grad
        assert gradient is not None and (gradient if gradient.ndim < 2 else gradient.any(-1)).all(), name
        direction = torch.from_numpy(np.asarray(rng.normal(size=tuple(parameter.shape))))
        h, losses = 1e-5, []
        with torch.no_grad():
            for sign in (1, -2):
                parameter.add_(sign * h * direction)
                losses.append(loss_of(model, ids).item())
            parameter.add_(h * direction)
        slope = (losses[0] - losses[1]) / (2 * h)
        # a loss of 3 is rounded to 4e-16: 2e-11 in the slope; the third derivative adds h^2 = 1e-10 of its own size
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-6, abs=1e-9), name


UNIT_SCALE: dict[str, dict[str, Any]] = {"gated-ngpt": {"logit_scale_init": 1.0}}


@pytest.mark.parametrize("arch", ["ngpt", "gated-ngpt", "gpt"])
def test_the_first_loss_is_that_of_a_uniform_guess(arch: str) -> None:
    with torch.no_grad():
        loss = loss_of(model_of(arch, **UNIT_SCALE.get(arch, {})), ids_of(batch=16)).item()
    # logits of deviation s = 1/sqrt(24) on the sphere, less in the control: the expected loss is ln V + s^2 / 2
    assert loss == pytest.approx(math.log(VOCAB) + (0 if arch == "gpt" else 1 / 48), abs=0.05)


# --- roles -----------------------------------------------------------------------------------------------------------


PARTS = {Part.ATTENTION: {"q", "k", "v", "o", "qkv"}, Part.MLP_IN: {"u", "g", "fc1"}, Part.MLP_OUT: {"down", "fc2"}}


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_has_the_tables_role_and_axis(arch: str) -> None:
    model, matrices = model_of(arch), table(arch)
    specs = parameter_specs(model)
    assert list(specs) == [name for name, _ in model.named_parameters()]
    for name, spec in specs.items():
        if name in ("embedding.weight", "position.weight"):
            role = Role.EMBEDDING
        elif name in ("head.weight", "s_z.value"):
            role = Role.HEAD
        elif name in matrices:
            role = Role.HIDDEN
        elif name == "logit_scale":
            role = Role.FROZEN
        else:
            role = Role.GATE if name.endswith("gate") else Role.SCALAR
        parts = [part for part, names in PARTS.items() if role == Role.HIDDEN and name.split(".")[-2] in names]
        part = parts[0] if role == Role.HIDDEN else None
        assert spec == ParameterSpec(role, matrices[name][1] if name in matrices else None, part), name


def test_a_parameter_without_a_spec_is_an_error() -> None:
    model = nn.Sequential(Linear(3, 4, Role.HIDDEN, -1), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"without a spec: \['1.bias', '1.weight'\]"):
        parameter_specs(model)


def test_a_spec_without_a_parameter_is_an_error() -> None:
    layer = Linear(3, 4, Role.HIDDEN, -1)
    layer.specs["bias"] = ParameterSpec(Role.SCALAR)
    with pytest.raises(ValueError, match=r"specs without one: \['bias'\]"):
        parameter_specs(layer)


def test_a_shared_parameter_is_an_error() -> None:
    layer = Linear(3, 4, Role.HIDDEN, -1)
    with pytest.raises(ValueError):
        parameter_specs(nn.Sequential(layer, layer))
    other = Linear(3, 4, Role.HIDDEN, -1)
    other.weight = layer.weight
    with pytest.raises(ValueError):
        parameter_specs(nn.Sequential(layer, other))


def test_a_module_declares_what_it_owns() -> None:
    module = Declared()
    module.declare("w", nn.Parameter(torch.zeros(2)), Role.GATE)
    nested = nn.ModuleDict({"inner": module})
    assert parameter_specs(nested) == {"inner.w": ParameterSpec(Role.GATE, None)}


# --- size and seed ---------------------------------------------------------------------------------------------------

CLASSES = {"gpt": ControlTransformer, "gated-literal": LiteralTransformer}


def count(config: ModelConfig, vocab: int) -> int:
    """Parameters, without the memory for them."""
    with torch.device("meta"):
        model = CLASSES.get(config.arch, SphereTransformer)(config, vocab)
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_155m_presets_have_155m_parameters() -> None:
    assert count(resolve("155m-literal").model, GPT2_VOCAB) == 155_166_743
    d, hidden, layers = 768, 2048, 11
    block = 4 * d * d + 3 * d * hidden + (d + 2 * hidden) + 2 * (d + 1)  # matrices, s_qk s_u s_g, gates and steps
    assert count(resolve("155m").model, GPT2_VOCAB) == 2 * GPT2_VOCAB * d + GPT2_VOCAB + layers * block
    assert 154.5e6 < count(resolve("155m").model, GPT2_VOCAB) < 155.5e6


@pytest.mark.parametrize("arch", ARCHS)
def test_the_count_does_not_depend_on_the_device(arch: str) -> None:
    config = resolve("tiny", arch=arch, n_layer=2, n_embd=D, n_head=4, seq_len=T).model
    model = build_model(config, VOCAB, seed=0)
    assert count(config, VOCAB) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arch", "n_embd", "hidden"),
    [("gated-ngpt", 768, 2048), ("gated-ngpt", 96, 256), ("gated-ngpt", 243, 648), ("gated-ngpt", 32, 88)]
    + [(arch, 96, 384) for arch in ("ngpt", "gpt", "gated-literal")],
)
def test_the_hidden_width(arch: Any, n_embd: int, hidden: int) -> None:
    assert ModelConfig(arch=arch, n_embd=n_embd, n_head=1).mlp_hidden == hidden


@pytest.mark.parametrize("arch", ARCHS)
def test_the_initial_weights_follow_from_the_seed_alone(arch: str) -> None:
    generators = torch.get_rng_state()
    one = model_of(arch, seed=3, optimizer="muon")
    assert torch.equal(torch.get_rng_state(), generators), "the global generator was used"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        two = model_of(arch, seed=3, optimizer="adam")
    other = model_of(arch, seed=4)
    for (name, a), b, c in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == (a.ndim < 2), name
    matrices = [parameter for parameter in one.parameters() if parameter.ndim == 2]
    assert not torch.equal(matrices[2], matrices[3]), "two matrices of one shape"


def test_the_controls_initial_deviations() -> None:
    model = model_of("gpt", n_embd=96)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            writes = name.endswith(("o.weight", "down.weight"))
            # 1,632 or more samples: the deviation is known to 1.8%, taken three times
            assert parameter.std().item() == pytest.approx(0.01 if writes else 0.02, rel=0.055), name
            assert abs(parameter.mean().item()) < 0.002
        else:
            assert torch.equal(parameter, torch.ones_like(parameter))


@pytest.mark.parametrize("arch", ["gated-ngpt", "ngpt", "gpt"])
def test_an_odd_head_width_works(arch: str) -> None:
    """The preset trinity: 243 / 9 = 27 dimensions a head, of which RoPE turns 26."""
    assert PRESETS["trinity"]["n_embd"] // PRESETS["trinity"]["n_head"] == 27
    model = build_model(resolve("trinity", arch=arch, n_layer=1).model, VOCAB, seed=0).double()
    ids = ids_of()
    with torch.no_grad():
        logits = model(ids)
        changed = ids.clone()
        changed[:, 3] = (changed[:, 3] + 1) % VOCAB
        difference = (model(changed) - logits).abs().amax(-1)
    assert torch.isfinite(logits).all()
    assert (difference[:, :3] == 0).all() and (difference[:, 3:] > 1e-12).all()
    loss_of(model, ids).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters() if p.grad is not None)
