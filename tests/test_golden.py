"""Twenty steps of small runs, loss by loss. A refactoring must not change them; a numeric change is deliberate.

Run this file as a script to regenerate the losses: `python tests/test_golden.py`.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ngpt.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from ngpt.model import build_model
from ngpt.optim.build import build_optimizers

GOLDEN = Path(__file__).parent / "golden" / "cpu_float32.json"
CASES = [(optimizer, arch) for optimizer in ("muon", "adam") for arch in ("gated-ngpt", "ngpt", "gpt")]
STEPS, BATCH, SEQ_LEN, VOCAB = 20, 4, 32, 64

RELATIVE = 2e-5
"""Tolerance for other machines: rounding every initial weight moves these losses by 3e-7, 1% of the rate by 2e-2"""


def token_stream(count: int) -> list[int]:
    """Return a walk on 64 tokens, three quarters of it predictable; the generator is Knuth's MMIX, in integers."""
    state, token, stream = 1, 0, []
    for _ in range(count):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        draw = state >> 33
        token = (5 * token + 3) % VOCAB if draw % 4 else (draw // 4) % VOCAB
        stream.append(token)
    return stream


def losses_of(optimizer: Any, arch: Any) -> list[float]:
    """Return the training loss of each step; no setting comes from a preset or default, which may change."""
    config = RunConfig(
        model=ModelConfig(
            arch=arch, n_layer=2, n_embd=32, n_head=4, seq_len=SEQ_LEN, alpha=0.05 if arch == "ngpt" else 0.15,
            logit_scale_init=1.0 if arch == "ngpt" else "sqrt-d",
        ),
        optim=OptimConfig(
            optimizer=optimizer, lr=0.03 if optimizer == "muon" else 0.01, aux_lr=0.01, momentum=0.95, nesterov=True,
            orthogonalizer="newton-schulz", ns_steps=5, adjust_lr_fn="original", lazy_proj_freq=7,
            adam_beta1=0.9, adam_beta2=0.95, schedule="cosine", warmup_steps=2, lr_floor=0.1, grad_clip=1.0,
        ),
        train=TrainConfig(batch_size=BATCH, dtype="float32"),
    )  # fmt: skip
    model = build_model(config.model, VOCAB, seed=0)
    optimizers = build_optimizers(model, config)
    batches_SBT: Tensor = torch.tensor(token_stream(STEPS * BATCH * (SEQ_LEN + 1))).reshape(STEPS, BATCH, SEQ_LEN + 1)
    losses = []
    for step, ids_BT in enumerate(batches_SBT):
        optimizers.schedule(step=step, progress=step / STEPS)
        loss = F.cross_entropy(model(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.move()
        optimizers.projection.after_step(step + 1)
        model.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("optimizer", "arch"), CASES)
def test_losses_are_the_kept_ones_and_repeat_to_the_bit(optimizer: str, arch: str) -> None:
    losses = losses_of(optimizer, arch)
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[f"{optimizer} {arch}"], rel=RELATIVE)
    assert losses_of(optimizer, arch) == losses
    assert losses[-1] < losses[0] - 0.1


def test_the_kept_losses_tell_the_cases_apart() -> None:
    kept = json.loads(GOLDEN.read_text())
    assert list(kept) == [f"{optimizer} {arch}" for optimizer, arch in CASES]
    for one, other in itertools.combinations(kept.values(), 2):
        assert max(abs(a / b - 1) for a, b in zip(one, other, strict=True)) > 10 * RELATIVE


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = {f"{optimizer} {arch}": losses_of(optimizer, arch) for optimizer, arch in CASES}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")
