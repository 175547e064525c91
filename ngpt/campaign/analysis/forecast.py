"""Forecasts of an effect at a larger size from those at smaller ones. Pure, no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ngpt.campaign.analysis.statistics import LEVEL, PairedDifference
from ngpt.campaign.definition.rule import check


@dataclass(frozen=True, kw_only=True)
class Band:
    """A forecast of a mean difference over seeds: the value, and the interval that will hold it 95% of the time."""

    mean: float
    low: float
    high: float


def extrapolate(sizes: Sequence[float], effects: Sequence[PairedDifference], size: float, seeds: int) -> Band:
    """Forecast the mean effect at a size, measured on so many seeds, by a straight line in the logarithm of size.

        mean = sum_i w_i m_i,  w_i = 1/k + (x_i - mean x) (x - mean x) / sum_j (x_j - mean x)^2,  x = log size
        band = mean +- t sqrt(sum_i w_i^2 s_i^2 / n_i + s^2 / seeds) = mean +- t sqrt(sum_i a_i s_i^2)

    sizes: k different positive numbers; with one, the effect is taken for constant. m_i, s_i, n_i: mean, standard
    deviation and seeds of the effects; s: their pooled standard deviation, so that the same s_i^2 are in both terms. t:
    Student's quantile at Welch and Satterthwaite's degrees of freedom, (sum_i a_i s_i^2)^2 / sum_i (a_i s_i^2)^2 /
    (n_i - 1). The band is that of the noise over seeds: it holds if the effects lie on a line. What a new choice of
    rates adds at that size is not in it.
    """
    different = len({*sizes}) == len(sizes) == len(effects) > 0
    sound = different and min(*sizes, size, seeds) > 0
    check(sound, f"a forecast needs effects at different positive sizes, got {list(sizes)}, and seeds, got {seeds}")
    x = np.log(np.asarray(sizes, dtype=np.float64))
    spread = float(np.square(x - x.mean()).sum())
    lever = (x - x.mean()) * (math.log(size) - x.mean()) / spread if spread else np.zeros_like(x)
    weights = 1 / len(x) + lever
    freedoms = np.array([effect.n - 1 for effect in effects], dtype=np.float64)
    variances = np.array([effect.sd**2 for effect in effects])
    terms = (weights**2 / (freedoms + 1) + freedoms / (freedoms.sum() * seeds)) * variances
    total = math.fsum(terms)
    mean = float(weights @ np.array([effect.mean for effect in effects]))
    if not total:
        return Band(mean=mean, low=mean, high=mean)
    degrees = total**2 / math.fsum(terms**2 / freedoms)
    half = float(stats.t.ppf(1 - LEVEL / 2, degrees)) * math.sqrt(total)
    return Band(mean=mean, low=mean - half, high=mean + half)
