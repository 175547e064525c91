"""Statistics of one campaign: pure functions on a (seed x arm) table, with an explicit random generator.

A `table` is float64 of shape (S seeds, K arms) and holds one metric in its own unit. Arms are paired by seed: one row
has the same initialization and batches in every arm, so what a seed does to all arms alike cancels in differences. An
entry that is not finite is a missing run: never started, diverged, or (for steps to a target) never reached.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from ngpt.campaign.definition.rule import check

Array = NDArray[np.float64]

LEVEL = 0.05  # of every test in a campaign; intervals cover 1 - LEVEL
MOST_SEEDS = 10_000  # beyond this, "more seeds" is no useful advice

_SEEDS = np.arange(2, MOST_SEEDS + 1)
_HALF_WIDTHS_PER_SD = special.stdtrit(_SEEDS - 1, 1 - LEVEL / 2) / np.sqrt(_SEEDS)  # falls with the number of seeds


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two arms over their common seeds, with its uncertainty, in the metric's unit."""

    mean: float
    sd: float
    """sample standard deviation of the differences over seeds"""
    n: int
    """seeds on which both arms have a result"""
    t_low: float
    t_high: float
    """Student t interval of the mean"""
    p: float
    """two-sided paired t-test of mean = 0"""

    @property
    def excludes_zero(self) -> bool:
        """Return whether the t interval lies on one side of zero."""
        return self.t_low > 0 or self.t_high < 0


@dataclass(frozen=True)
class Comparison:
    """One contrast of arms over its complete seeds."""

    difference: PairedDifference | None
    """mean of the contrast; None with fewer than two complete seeds"""
    p_moderated: float | None
    """see `moderated_p_values`; None for a contrast with a missing run, which is left out of the noise estimate"""
    p_holm: float | None
    """p_moderated after Holm's correction over all contrasts compared"""
    n_missing: int
    """seeds on which a run of one of its arms has no result"""

    @property
    def distinguishable(self) -> bool:
        """Return whether the contrast exceeds noise: its t interval excludes zero, Holm p < 0.05, no run is missing.

        Both tests are needed. With 5 seeds and 6 arms, Holm over t-tests with 4 degrees of freedom finds an effect of
        three noise floors only 64% of the time; with moderated variances it is found in 89%, and in 74% where another
        arm is ten times as noisy. But a contrast noisier than the rest would borrow too small a variance from them;
        its own interval prevents that.
        """
        if self.n_missing or self.difference is None or self.p_holm is None:
            return False
        return self.difference.excludes_zero and self.p_holm < LEVEL


@dataclass(frozen=True)
class LrOptimum:
    """The best learning rate, how well the seeds determine it, and how wide the basin around it is."""

    lr: float
    """vertex of the parabola; the rate of the lowest arm if `at_edge`"""
    lr_low: float | None
    lr_high: float | None
    """percentile bootstrap interval of `lr` over seeds; None with fewer than two seeds or no resamples"""
    at_edge: bool
    """whether no parabola brackets the minimum: `lr` is then only the best rate that was tried"""
    basin_low: float
    basin_high: float
    """rates between which the mean curve stays within the tolerance of its minimum"""
    basin_open_low: bool
    basin_open_high: bool
    """whether the basin extends to that end of the grid, so that its true limit lies beyond"""
    basin_width_decades: float
    """log10(basin_high / basin_low), a lower bound if either end is open"""


def paired_difference(x: Array, y: Array) -> PairedDifference:
    """Estimate the mean of x - y over seeds, with a t interval of 95%.

        d_i = x_i - y_i,  i = 1..n;  mean +- t_{n-1} sd(d) / sqrt(n)

    x, y: (S,), one metric of two arms, same seeds in the same order; seeds without both results are dropped.
    Differences that are all equal have sd 0: the interval is that value, and p is 1 if it is zero, else 0.
    The order of the seeds does not matter. Raises ValueError for unequal shapes or fewer than two pairs.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    check(x.ndim == 1 and x.shape == y.shape, f"paired arms need one axis of the same seeds: {x.shape}, {y.shape}")
    paired = np.isfinite(x) & np.isfinite(y)
    return _mean_difference(x[paired] - y[paired])


def sample_mean(values: Array) -> PairedDifference | None:
    """Estimate the mean of a sample (n,) with its t interval; None with fewer than two finite values."""
    return None if np.isfinite(values).sum() < 2 else _mean_difference(values)


def _mean_difference(d: Array) -> PairedDifference:
    d = np.sort(d[np.isfinite(d)])
    check(d.size >= 2, f"a paired difference needs at least 2 complete pairs, got {d.size}")
    centered = d - d[0]  # exactly zero where all are equal, which d - mean(d) is not
    mean, sd = float(d[0] + centered.mean()), float(centered.std(ddof=1))
    half = float(special.stdtrit(d.size - 1, 1 - LEVEL / 2)) * sd / math.sqrt(d.size)
    p = float(_two_sided_p(mean, sd / math.sqrt(d.size), d.size - 1))
    return PairedDifference(mean, sd, d.size, mean - half, mean + half, p)


def holm(p_values: ArrayLike) -> Array:
    """Adjust p-values by Holm's step-down method: rejecting below alpha keeps the family-wise error below alpha.

        p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)

    p_values: (m,), with any dependence among them; returned in the order given. Raises ValueError for a NaN or a value
    outside [0, 1]: a test that was not made needs a decision (p = 1), not a gap.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    p = np.asarray(p_values, dtype=np.float64)
    check(p.ndim == 1 and np.all((p >= 0) & (p <= 1)), f"Holm's correction needs p-values in [0, 1], got {p}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.arange(p.size, 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def moderated_p_values(values: Array, scale: ArrayLike, rank: int) -> Array:
    """Test each contrast's mean against zero, two-sided, with its variance moderated by those of the others.

        s_c^2 = var(values_c) / scale_c,  d = n - 1,  prior: d_0 s_0^2 / sigma_c^2 ~ chi^2 with d_0 degrees of freedom
        s'^2 = (d_0 s_0^2 + d s_c^2) / (d_0 + d),  t_c = mean_c / sqrt(s'^2 scale_c / n),  min(d_0 + d, d rank) df

    values: (n seeds, C contrasts), finite. scale: (C,), sum of squared weights of each, so that contrasts of equally
    noisy arms have equal variances. rank: of the matrix of weights, which bounds the degrees of freedom. The prior is
    fitted to the log variances by moments: equal variances give d_0 = inf, an outlier gives a small d_0, so that each
    contrast then stands on its own. With fewer than three positive variances there is no prior, only the paired t-test.
    Returns p-values (C,). Raises ValueError for fewer than two seeds.

    Source: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3, 3, section 6.2. Differs from the
    source: zero variances are left out of the fit, and contrasts that share arms are not independent, which
    tests/campaign/test_false_positives.py shows to be harmless.
    """
    values, scale = np.asarray(values, dtype=np.float64), np.asarray(scale, dtype=np.float64)
    n = len(values)
    check(n >= 2, f"a variance needs at least 2 seeds, got {n}")
    df: float = n - 1
    centered = values - values[0]  # exactly zero where all seeds are equal
    variance = centered.var(axis=0, ddof=1) / scale
    noisy = variance[variance > 0]
    if noisy.size >= 3:
        prior, prior_df = _inverse_chi_square_prior(noisy, df)
        share = df / (prior_df + df)
        variance = (1 - share) * prior + share * variance
        df = min(prior_df + df, df * rank)
    return _two_sided_p(values[0] + centered.mean(axis=0), np.sqrt(variance * scale / n), df)


def _inverse_chi_square_prior(variance: Array, df: float) -> tuple[float, float]:
    """Fit scale s_0^2 and degrees of freedom d_0 (inf: no spread beyond that of chi^2) to variances with df each."""
    e = np.log(variance) - special.digamma(df / 2) + math.log(df / 2)
    excess = float(e.var(ddof=1) - special.polygamma(1, df / 2))
    if excess < 1e-8:
        return math.exp(e.mean()), math.inf
    half = math.exp(optimize.brentq(lambda x: float(special.polygamma(1, math.exp(x))) - excess, -20.0, 20.0))
    return math.exp(e.mean() + float(special.digamma(half)) - math.log(half)), 2 * half


def compare(table: Array, contrasts: Array) -> list[Comparison]:
    """Estimate every contrast of arms on its own seeds, all of them under one error rate.

    table: (S, K). contrasts: (C, K), each row the weights of the arms, summing to zero and not all zero: +1 and -1 for
    one arm against another. A contrast with missing runs is taken over the remaining seeds, but those are the runs that
    survived: it is left out of the noise estimate, counts in Holm's family with p = 1, and is never distinguishable.
    Raises ValueError for rows that are not contrasts.
    """
    table, contrasts = np.asarray(table, dtype=np.float64), np.asarray(contrasts, dtype=np.float64)
    fits = table.ndim == contrasts.ndim == 2 and table.shape[1] == contrasts.shape[1]
    check(fits, f"need a weight for each arm of the table, got shapes {contrasts.shape} and {table.shape}")
    sound = np.all(np.abs(contrasts.sum(axis=1)) <= 1e-9) and np.all(np.any(contrasts != 0, axis=1))
    check(sound, "the weights of a contrast are not all zero and sum to zero")
    present = np.isfinite(table)
    complete = np.array([present[:, row != 0].all(axis=1) for row in contrasts]).reshape(len(contrasts), len(table)).T
    level = np.where(present, table, 0.0).sum(axis=1, keepdims=True) / np.maximum(present.sum(axis=1, keepdims=True), 1)
    values = np.where(complete, np.where(present, table - level, 0.0) @ contrasts.T, np.nan)

    whole = [c for c in range(len(contrasts)) if len(table) >= 2 and complete[:, c].all()]
    moderated: dict[int, float] = {}
    if whole:
        rank = int(np.linalg.matrix_rank(contrasts[whole]))
        p = moderated_p_values(values[:, whole], (contrasts[whole] ** 2).sum(axis=1), rank)
        moderated = dict(zip(whole, p.tolist(), strict=True))
    adjusted = holm([moderated.get(c, 1.0) for c in range(len(contrasts))]).tolist()
    return [
        Comparison(
            _mean_difference(values[:, c]) if complete[:, c].sum() >= 2 else None,
            p_moderated=moderated.get(c), p_holm=adjusted[c] if c in moderated else None,
            n_missing=int((~complete[:, c]).sum()),
        )
        for c in range(len(contrasts))
    ]  # fmt: skip


def best_lr(
    lrs: ArrayLike, table: Array, rng: np.random.Generator, *, resamples: int = 2000, tolerance: float
) -> LrOptimum:
    """Find the best learning rate: the vertex of the parabola in log lr through the lowest arm and its two neighbors.

        loss(lr) = loss* + c (log lr - log lr*)^2,  c > 0

    lrs: (K,), distinct and positive, in any order. table: (S, K), losses of these arms; arms that lack a seed are left
    out. The others share their seeds, so least squares on their points is the parabola through the three means. The
    interval repeats the procedure, including the choice of arms, on `resamples` draws of whole seeds (0 for none).
    tolerance: height of the basin in the unit of the loss; between arms the mean curve is linear in log lr, and an end
    is open where the grid of complete arms ends first. Raises ValueError for a bad grid or if no arm is left.
    """
    grid, table = np.asarray(lrs, dtype=np.float64), np.asarray(table, dtype=np.float64)
    fits = table.ndim == 2 and grid.shape == table.shape[1:]
    check(fits, f"need one learning rate per column of the table, got shapes {grid.shape} and {table.shape}")
    sound = np.all(np.isfinite(grid) & (grid > 0)) and np.unique(grid).size == grid.size
    check(sound, f"learning rates must be positive and distinct, got {grid}")
    check(tolerance >= 0, f"tolerance must be at least 0, got {tolerance}")
    kept = [arm for arm in np.argsort(grid) if np.isfinite(table[:, arm]).all()]
    check(bool(kept) and table.size > 0, "no learning rate has a result for every seed")
    grid, losses = grid[kept], table[:, kept]
    log_lr, mean = np.log(grid), losses.mean(axis=0)

    lowest = int(mean.argmin())
    vertex, at_edge = (value[0] for value in _vertex(log_lr, mean[None]))
    interval: tuple[float | None, float | None] = (None, None)
    if resamples and len(losses) > 1:
        boot = stats.bootstrap(
            (np.arange(len(losses)),),
            lambda seeds, axis: _vertex(log_lr, losses[seeds].mean(axis=axis - 1))[0],  # (R, S, K) -> (R, K) -> (R,)
            n_resamples=resamples, confidence_level=1 - LEVEL, method="percentile", vectorized=True, rng=rng,
        ).confidence_interval  # fmt: skip
        interval = math.exp(boot.low), math.exp(boot.high)
    basin = []
    for side in (slice(lowest, None, -1), slice(lowest, None)):
        end = _crossing(log_lr[side], mean[side], mean[side] > mean[lowest] + tolerance, mean[lowest] + tolerance)
        basin.append((float(grid[side][-1]), True) if math.isinf(end) else (math.exp(end), False))
    (low, open_low), (high, open_high) = basin
    return LrOptimum(
        lr=float(grid[lowest]) if at_edge else math.exp(vertex), lr_low=interval[0], lr_high=interval[1],
        at_edge=bool(at_edge), basin_low=low, basin_high=high, basin_open_low=open_low, basin_open_high=open_high,
        basin_width_decades=math.log10(high / low),
    )  # fmt: skip


def losses_at_optimum(lrs: ArrayLike, table: Array) -> Array | None:
    """Return each seed's loss at the fitted optimum of the mean, (S,), from the tuning runs alone.

        l_s(x*) = sum_j l_sj L_j(x*),  L_j: Lagrange's polynomials through the lowest arm of the mean and its neighbors

    lrs, table: as in `best_lr`; x* is the optimum that it finds, so the mean over seeds is the parabola's minimum. None
    where the lowest arm is at an end of the grid, or one of the three has a missing run.
    """
    order = np.argsort(np.asarray(lrs, dtype=np.float64))
    x, losses = np.log(np.asarray(lrs, dtype=np.float64)[order]), np.asarray(table, dtype=np.float64)[:, order]
    mean = losses.mean(axis=0)
    if len(x) < 3 or not np.isfinite(mean).any():
        return None
    lowest = int(np.nanargmin(np.where(np.isfinite(mean), mean, np.nan)))
    near = slice(lowest - 1, lowest + 2)
    if not 0 < lowest < len(x) - 1 or not np.isfinite(mean[near]).all():
        return None
    vertex, flat = _vertex(x[near], mean[None, near])
    if flat[0]:
        return None
    at, points = vertex[0], x[near]
    basis = [math.prod((at - b) / (a - b) for b in points if b != a) for a in points]
    found: Array = losses[:, near] @ np.array(basis)
    return found


def share_of_descent(steps: ArrayLike, losses: ArrayLike, amount: float) -> float:
    """Return the share of a run in which, up to its end, the loss fell by `amount`; math.inf if it never was as high.

        share = 1 - s / s_N,  s the last step at which the loss was l_N + amount, linear between validations

    steps: (N,), increasing from above 0. losses: (N,), finite. amount: at least 0, in the loss's unit.
    """
    s, curve = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    back, level = curve[::-1], curve[-1] + amount
    reached = _crossing(s[::-1], back, back >= level, level)
    return math.inf if math.isinf(reached) else 1 - reached / float(s[-1])


def steps_to_reach(steps: ArrayLike, losses: ArrayLike, target: float) -> float:
    """Return the first step at which a recorded curve is at or below the target; math.inf if it never is.

        step = s_{i-1} + (s_i - s_{i-1}) (l_{i-1} - target) / (l_{i-1} - l_i),  i = first point with l_i <= target

    steps: (N,), increasing; losses: (N,), in the target's unit. Points that are not finite are
    dropped. Raises ValueError for unequal shapes, steps that do not increase, or a target that is not finite.
    """
    s, curve = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    sound = s.ndim == 1 and s.shape == curve.shape and np.all(np.diff(s) > 0)
    check(sound, f"a curve needs increasing steps, one loss each, got shapes {s.shape} and {curve.shape}")
    check(math.isfinite(target), f"the target must be finite, got {target}")
    recorded = np.isfinite(curve)
    return _crossing(s[recorded], curve[recorded], curve[recorded] <= target, target)


def seeds_to_decide(difference: PairedDifference, smallest_effect: float) -> int | None:
    """Return the smallest number of seeds whose t interval would settle the question if mean and sd stayed the same.

        t_{n-1} sd / sqrt(n) < |mean|                       if |mean| >= smallest_effect (zero is excluded)
        t_{n-1} sd / sqrt(n) <= smallest_effect - |mean|    otherwise (nothing that matters is left)

    smallest_effect: in the unit of the mean. At least one seed more than now; None above 10,000. This is advice, not
    a power calculation: if mean and sd are exactly right, that many seeds decide about half of the time.
    """
    magnitude = abs(difference.mean)
    halves = _HALF_WIDTHS_PER_SD * difference.sd  # entry i belongs to i + 2 seeds
    enough = halves < magnitude if magnitude >= smallest_effect else halves <= smallest_effect - magnitude
    deciding = np.flatnonzero(enough[difference.n - 1 :])
    return difference.n + 1 + int(deciding[0]) if deciding.size else None


def seeds_to_halve(seeds: int) -> int:
    """Return the number of seeds whose t interval is at most half as wide as that of `seeds`, at the same sd.

    >>> seeds_to_halve(5), seeds_to_halve(9)
    (13, 29)
    """
    widths = _HALF_WIDTHS_PER_SD[seeds - 2 : 4 * seeds]
    return seeds + int(np.argmax(widths <= widths[0] / 2))


def _two_sided_p(estimate: ArrayLike, standard_error: ArrayLike, df: float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):  # without spread, t is infinite, or 0/0 and p is 1
        t = np.abs(estimate) / np.asarray(standard_error)
    return np.nan_to_num(2 * special.stdtr(df, -t), nan=1.0)  # stats.t.sf without its overhead


def _vertex(x: Array, y: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Find the vertex of the parabola around the lowest point of each curve, and where none exists.

    x: (K,) increasing; y: (R, K); returns two arrays (R,). Where the lowest point is an end of the grid, that point.
    """
    lowest = y.argmin(axis=1)
    edge = (lowest == 0) | (lowest == x.size - 1)
    if edge.all():
        return x[lowest], edge
    middle = np.clip(lowest, 1, x.size - 2)
    x0, x1, x2 = (x[middle + j] for j in (-1, 0, 1))
    y0, y1, y2 = (np.take_along_axis(y, middle[:, None] + j, axis=1)[:, 0] for j in (-1, 0, 1))
    slope = (y1 - y0) / (x1 - x0)
    curvature = ((y2 - y1) / (x2 - x1) - slope) / (x2 - x0)
    edge |= curvature <= 0
    curvature = np.where(edge, 1.0, curvature)
    return np.where(edge, x[lowest], (x0 + x1) / 2 - slope / (2 * curvature)), edge


def _crossing(x: Array, y: Array, beyond: NDArray[np.bool_], level: float) -> float:
    """Return where the segment that ends in the first point `beyond` meets the level; math.inf if no point is."""
    if not beyond.any():
        return math.inf
    i = int(beyond.argmax())
    return float(x[i - 1] + (x[i] - x[i - 1]) * ((level - y[i - 1]) / (y[i] - y[i - 1])) if i else x[0])
