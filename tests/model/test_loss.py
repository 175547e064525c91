"""The loss against float64, and targets that do not count."""

import numpy as np
import pytest
import torch

from ngpt.data.batches import IGNORE_INDEX
from ngpt.model.loss import cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_that_of_the_counted_targets_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 5, 7, generator=generator)).to(dtype)
    targets = torch.randint(7, (2, 5), generator=generator)
    targets[:, :2] = IGNORE_INDEX
    exact = logits.double().numpy()
    chosen = np.take_along_axis(exact, targets.clamp_min(0).numpy()[..., None], -1)[..., 0]
    expected = (np.log(np.exp(exact).sum(-1)) - chosen)[targets.numpy() != IGNORE_INDEX]
    assert cross_entropy(logits, targets).dtype == torch.float32
    assert cross_entropy(logits, targets).item() == pytest.approx(expected.mean(), rel=1e-6)
    assert cross_entropy(logits, targets, reduction="sum").item() == pytest.approx(expected.sum(), rel=1e-6)
