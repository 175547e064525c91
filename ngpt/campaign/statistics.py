"""Statistics of one campaign: pure functions on a (seed x arm) table, with an explicit random generator.

A `table` is float64 of shape (S seeds, K arms) and holds one metric in the metric's own unit. Arms are paired by seed:
the same row means the same initialisation and the same batches, so a row is a block and its effect cancels in every
difference. An entry that is not finite is a missing run: never started, diverged, or (steps to a target) never there.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]

LEVEL = 0.05  # of every test in a campaign; intervals cover 1 - LEVEL
MOST_SEEDS = 10_000  # beyond this, "more seeds" is no advice


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two arms over their common seeds, with its uncertainty, in the metric's unit."""

    mean: float
    sd: float
    """Sample standard deviation of the differences over seeds."""
    n: int
    """Seeds on which both arms have a result."""
    t_low: float
    t_high: float
    """Student t interval of the mean: the one that decides."""
    boot_low: float | None
    boot_high: float | None
    """Percentile bootstrap interval of the mean, shown beside it; None where no resamples were asked for."""
    p: float
    """Two-sided paired t-test of mean = 0."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the t interval lies on one side of zero."""
        return self.t_low > 0 or self.t_high < 0


@dataclass(frozen=True)
class Comparison:
    """One contrast of arms over its complete seeds."""

    difference: PairedDifference | None
    """Mean of the contrast; None where there are fewer than two complete seeds."""
    p_moderated: float | None
    """See `moderated_p_values`; None for a contrast that misses a run, which has no part in the estimate of noise."""
    p_holm: float | None
    """p_moderated after Holm's correction over all contrasts compared."""
    n_missing: int
    """Seeds on which a run of one of its arms has no result."""

    @property
    def distinguishable(self) -> bool:
        """Whether the contrast is more than noise: own t interval without zero, Holm p below 0.05, no run missing.

        Both tests, for two reasons. With 5 seeds and 6 arms, Holm over t-tests with 4 degrees of freedom finds an
        effect of three noise floors only 64% of the time; variances moderated by each other find it in 89%, and in
        74% where one of the other arms is ten times as noisy. But a contrast noisier than the rest borrows from them
        a variance that is too small for it; its own interval stops that.
        """
        if self.n_missing or self.difference is None or self.p_holm is None:
            return False
        return self.difference.excludes_zero and self.p_holm < LEVEL


@dataclass(frozen=True)
class LrOptimum:
    """Where the best learning rate is, how well the seeds fix it, and how wide the basin around it."""

    lr: float
    """Vertex of the parabola; the lowest arm's own rate if `at_edge`."""
    loss: float
    """Loss at `lr`, in the table's unit."""
    lr_low: float | None
    lr_high: float | None
    """Percentile bootstrap interval of `lr` over seeds; None with fewer than two seeds or no resamples."""
    at_edge: bool
    """Whether no parabola brackets the minimum: `lr` is then only the best rate that was tried."""
    basin_low: float
    basin_high: float
    """Rates between which the mean curve stays within the tolerance of its minimum."""
    basin_open_low: bool
    basin_open_high: bool
    """Whether the basin runs into that end of the grid, so that its true limit lies beyond."""
    basin_width_decades: float
    """log10(basin_high / basin_low), a lower bound if either end is open."""


def paired_difference(
    x: Array, y: Array, rng: np.random.Generator, *, confidence: float = 1 - LEVEL, resamples: int = 10_000
) -> PairedDifference:
    """Mean of x - y over seeds, with a t interval and a bootstrap interval beside it.

        d_i = x_i - y_i,  i = 1..n;  mean +- t_{n-1} sd(d) / sqrt(n)

    x, y: (S,), one metric of two arms, same seeds in the same order; seeds without both results are dropped.
    confidence: of both intervals. resamples: 0 leaves the bootstrap out. With few seeds the bootstrap interval is too
    narrow (by sqrt((n - 1) / n) and by the normal instead of the t quantile), so that it is shown and decides nothing.
    Differences that are all equal have sd 0: both intervals are that value, and p is 1 if it is zero, else 0.
    The order of the seeds changes nothing. Raises ValueError for unequal shapes or fewer than two pairs.

    Source: Efron and Tibshirani 1993, chapter 13 (percentile interval).
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"paired arms need one axis of the same seeds, got shapes {x.shape} and {y.shape}")
    paired = np.isfinite(x) & np.isfinite(y)
    return _mean_difference(x[paired] - y[paired], rng, confidence, resamples)


def _mean_difference(d: Array, rng: np.random.Generator, confidence: float, resamples: int) -> PairedDifference:
    d = np.sort(d[np.isfinite(d)])
    if d.size < 2:
        raise ValueError(f"a paired difference needs at least 2 complete pairs, got {d.size}")
    centred = d - d[0]  # exactly zero where all are equal, which d - mean(d) is not
    mean, sd = float(d[0] + centred.mean()), float(centred.std(ddof=1))
    half = _t_quantile(d.size - 1, confidence) * sd / math.sqrt(d.size)
    boot_low, boot_high = None, None
    if resamples:
        boot = stats.bootstrap(
            (d,), np.mean, n_resamples=resamples, confidence_level=confidence, method="percentile", rng=rng
        ).confidence_interval
        boot_low, boot_high = float(boot.low), float(boot.high)
    p = float(_two_sided_p(mean, sd / math.sqrt(d.size), d.size - 1))
    return PairedDifference(mean, sd, d.size, mean - half, mean + half, boot_low, boot_high, p)


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjustment: reject where it is below alpha, and the family-wise error stays below alpha.

        p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)

    p_values: (m,), with any dependence among them; returned adjusted in the order given. Raises ValueError for a NaN or
    a value outside [0, 1]: a test that was not made needs a decision (p = 1), not a gap.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"Holm's correction needs one axis of p-values in [0, 1], got {p}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.arange(p.size, 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def moderated_p_values(values: Array, scale: ArrayLike, arms: int) -> Array:
    """Two-sided p of each contrast's mean being zero, its variance moderated by the variances of the others.

        s_c^2 = var(values_c) / scale_c,  d = n - 1,  prior: d_0 s_0^2 / sigma_c^2 ~ chi^2 with d_0 degrees of freedom
        s'^2 = (d_0 s_0^2 + d s_c^2) / (d_0 + d),  t_c = mean_c / sqrt(s'^2 scale_c / n),  min(d_0 + d, d (arms - 1)) df

    values: (n seeds, C contrasts), finite. scale: (C,), sum of the squared weights of each, so that contrasts of
    equally noisy arms have one variance. arms: different arms among them, which bound the degrees of freedom. The prior
    is fitted to the log variances by moments; equal variances give d_0 = inf, one far off a small d_0, so that each
    contrast then stands by itself. With fewer than three positive variances there is no prior: the paired t-test.
    Raises ValueError for fewer than two seeds.

    Source: Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3, 3, section 6.2. Differs from the
    source: zero variances are left out of the fit, and contrasts that share arms are not independent, which
    tests/campaign/test_false_positives.py shows to do no harm.
    """
    values, scale = np.asarray(values, dtype=np.float64), np.asarray(scale, dtype=np.float64)
    n = len(values)
    if n < 2:
        raise ValueError(f"a variance needs at least 2 seeds, got {n}")
    df: float = n - 1
    centred = values - values[0]  # exactly zero where all seeds are equal
    variance = centred.var(axis=0, ddof=1) / scale
    noisy = variance[variance > 0]
    if noisy.size >= 3:
        prior, prior_df = _inverse_chi_square_prior(noisy, df)
        share = df / (prior_df + df)
        variance = (1 - share) * prior + share * variance
        df = min(prior_df + df, df * (arms - 1))
    return _two_sided_p(values[0] + centred.mean(axis=0), np.sqrt(variance * scale / n), df)


def _inverse_chi_square_prior(variance: Array, df: float) -> tuple[float, float]:
    """Scale s_0^2 and degrees of freedom d_0 (inf: no spread beyond that of chi^2) of variances with df each."""
    e = np.log(variance) - special.digamma(df / 2) + math.log(df / 2)
    excess = float(e.var(ddof=1) - special.polygamma(1, df / 2))
    if excess < 1e-8:
        return math.exp(e.mean()), math.inf
    half = math.exp(optimize.brentq(lambda x: float(special.polygamma(1, math.exp(x))) - excess, -20.0, 20.0))
    return math.exp(e.mean() + float(special.digamma(half)) - math.log(half)), 2 * half


def compare(table: Array, contrasts: Array, rng: np.random.Generator, *, resamples: int = 10_000) -> list[Comparison]:
    """Every contrast of arms on its own seeds, and all together under one error rate.

    table: (S, K). contrasts: (C, K), each row the weights of the arms, zero in sum and not all zero: +1 and -1 for an
    arm against another. resamples: of each bootstrap interval, 0 for none. A contrast with missing runs is taken over
    the seeds that are left, but those are the runs that survived: it has no part in the estimate of noise, counts in
    Holm's family with p = 1, and is never distinguishable. Raises ValueError for rows that are no contrasts.
    """
    table, contrasts = np.asarray(table, dtype=np.float64), np.asarray(contrasts, dtype=np.float64)
    if table.ndim != 2 or contrasts.ndim != 2 or table.shape[1] != contrasts.shape[1]:
        raise ValueError(f"need a weight for each arm of the table, got shapes {contrasts.shape} and {table.shape}")
    if np.any(np.abs(contrasts.sum(axis=1)) > 1e-9) or not np.all(np.any(contrasts != 0, axis=1)):
        raise ValueError("the weights of a contrast are not all zero and sum to zero")
    present = np.isfinite(table)
    complete = np.array([present[:, row != 0].all(axis=1) for row in contrasts]).reshape(len(contrasts), len(table)).T
    level = np.where(present, table, 0.0).sum(axis=1, keepdims=True) / np.maximum(present.sum(axis=1, keepdims=True), 1)
    values = np.where(complete, np.where(present, table - level, 0.0) @ contrasts.T, np.nan)

    whole = [c for c in range(len(contrasts)) if len(table) >= 2 and complete[:, c].all()]
    moderated: dict[int, float] = {}
    if whole:
        arms = int(np.any(contrasts[whole] != 0, axis=0).sum())
        p = moderated_p_values(values[:, whole], (contrasts[whole] ** 2).sum(axis=1), arms)
        moderated = dict(zip(whole, p.tolist(), strict=True))
    adjusted = holm([moderated.get(c, 1.0) for c in range(len(contrasts))]).tolist()
    return [
        Comparison(
            difference=(
                _mean_difference(values[:, c], rng, 1 - LEVEL, resamples) if complete[:, c].sum() >= 2 else None
            ),
            p_moderated=moderated.get(c),
            p_holm=adjusted[c] if c in moderated else None,
            n_missing=int((~complete[:, c]).sum()),
        )
        for c in range(len(contrasts))
    ]


def noise_floor(table: Array, baseline: int) -> float:
    """Sample standard deviation of the baseline over its seeds, in the table's unit.

    table: (S, K). It contains the seed effects, which pairing removes: a paired difference can be sharper than the
    floor. Raises ValueError if `baseline` is no column or has fewer than two results.
    """
    table, _ = _checked(table, baseline)
    values = table[np.isfinite(table[:, baseline]), baseline]
    if values.size < 2:
        raise ValueError(f"a noise floor needs at least 2 results of the baseline, got {values.size}")
    return float((values - values[0]).std(ddof=1))


def best_lr(
    lrs: ArrayLike,
    table: Array,
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    confidence: float = 1 - LEVEL,
    tolerance: float,
) -> LrOptimum:
    """Best learning rate: vertex of the parabola in log lr through the lowest arm and its two neighbours.

        loss(lr) = loss* + c (log lr - log lr*)^2,  c > 0

    lrs: (K,), distinct and positive, in any order. table: (S, K), losses of these arms; an arm without every seed is
    left out. The others have the same seeds, so that least squares on their points is the parabola through the three
    means. The interval repeats all of it, the choice of the arms too, on `resamples` draws of whole seeds (0 for none).
    tolerance: height of the basin in the unit of the loss; between arms the mean curve is linear in log lr, and an end
    is open where the grid, or the arms with every seed, end first. Raises ValueError for a bad grid or no arm left.
    """
    grid, table = np.asarray(lrs, dtype=np.float64), np.asarray(table, dtype=np.float64)
    if table.ndim != 2 or grid.shape != table.shape[1:]:
        raise ValueError(f"need one learning rate per column of the table, got shapes {grid.shape} and {table.shape}")
    if not np.all(np.isfinite(grid) & (grid > 0)) or np.unique(grid).size < grid.size:
        raise ValueError(f"learning rates must be positive and distinct, got {grid}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    kept = [arm for arm in np.argsort(grid) if np.isfinite(table[:, arm]).all()]
    if not kept or not table.size:
        raise ValueError("no learning rate has a result for every seed")
    grid, losses = grid[kept], table[:, kept]
    log_lr, mean = np.log(grid), losses.mean(axis=0)

    lowest = int(mean.argmin())
    vertex, loss, at_edge = (value[0] for value in _vertex(log_lr, mean[None]))
    interval: tuple[float | None, float | None] = (None, None)
    if resamples and len(losses) > 1:
        boot = stats.bootstrap(
            (np.arange(len(losses)),),
            lambda seeds, axis: _vertex(log_lr, losses[seeds].mean(axis=axis - 1))[0],  # (R, S, K) -> (R, K) -> (R,)
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            vectorized=True,
            rng=rng,
        ).confidence_interval
        interval = math.exp(boot.low), math.exp(boot.high)
    low, open_low = _reach(grid[lowest::-1], mean[lowest::-1], mean[lowest] + tolerance)
    high, open_high = _reach(grid[lowest:], mean[lowest:], mean[lowest] + tolerance)
    return LrOptimum(
        lr=float(grid[lowest]) if at_edge else math.exp(vertex),
        loss=float(loss),
        lr_low=interval[0],
        lr_high=interval[1],
        at_edge=bool(at_edge),
        basin_low=low,
        basin_high=high,
        basin_open_low=open_low,
        basin_open_high=open_high,
        basin_width_decades=math.log10(high / low),
    )


def steps_to_reach(steps: ArrayLike, losses: ArrayLike, target: float) -> float:
    """First step at which a recorded curve is at or below the target; math.inf if it never is.

        step = s_{i-1} + (s_i - s_{i-1}) (l_{i-1} - target) / (l_{i-1} - l_i),  i = first point with l_i <= target

    steps: (N,), increasing; losses: (N,), in the target's unit. Points that are not finite are no record and are
    dropped. Raises ValueError for unequal shapes, steps that do not increase, or a target that is not finite.
    """
    s, curve = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if s.ndim != 1 or s.shape != curve.shape or np.any(np.diff(s) <= 0):
        raise ValueError(f"a curve needs increasing steps, one loss each, got shapes {s.shape} and {curve.shape}")
    if not math.isfinite(target):
        raise ValueError(f"the target must be finite, got {target}")
    recorded = np.isfinite(curve)
    s, curve = s[recorded], curve[recorded]
    reached = np.flatnonzero(curve <= target)
    if not reached.size:
        return math.inf
    return _crossing(s, curve, int(reached[0]), target)


def seeds_to_decide(difference: PairedDifference, smallest_effect: float) -> int | None:
    """Smallest number of seeds whose t interval would settle the question, were mean and sd to stay as they are.

        t_{n-1} sd / sqrt(n) < |mean|                       if |mean| >= smallest_effect (zero is excluded)
        t_{n-1} sd / sqrt(n) <= smallest_effect - |mean|    otherwise (nothing that matters is left)

    smallest_effect: in the unit of the mean. At least one seed more than now; None above 10,000. Advice, not a power
    calculation: if mean and sd are exactly right, that many seeds decide about every second time.
    """
    magnitude = abs(difference.mean)
    halves = _half_widths_per_sd() * difference.sd  # entry i belongs to i + 2 seeds
    enough = halves < magnitude if magnitude >= smallest_effect else halves <= smallest_effect - magnitude
    deciding = np.flatnonzero(enough[difference.n - 1 :])
    return difference.n + 1 + int(deciding[0]) if deciding.size else None


def _checked(table: Array, baseline: int) -> tuple[Array, list[int]]:
    """Return the table as float64 and the columns other than the baseline's."""
    table = np.asarray(table, dtype=np.float64)
    if table.ndim != 2 or not 0 <= baseline < table.shape[1]:
        raise ValueError(f"baseline {baseline} is no column of a table of shape {table.shape}")
    return table, [arm for arm in range(table.shape[1]) if arm != baseline]


@lru_cache(maxsize=256)
def _t_quantile(df: int, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, df))


@lru_cache(maxsize=1)
def _half_widths_per_sd() -> Array:
    """t_{n-1} / sqrt(n) for n = 2..MOST_SEEDS, which falls with n."""
    n = np.arange(2, MOST_SEEDS + 1)
    return np.asarray(stats.t.ppf(1 - LEVEL / 2, n - 1) / np.sqrt(n))


def _two_sided_p(estimate: ArrayLike, standard_error: ArrayLike, df: float) -> Array:
    size, error = np.abs(np.asarray(estimate, dtype=np.float64)), np.asarray(standard_error, dtype=np.float64)
    t = size / np.where(error > 0, error, 1.0)
    p = 2 * special.stdtr(df, -t)  # stats.t.sf without its overhead
    return np.asarray(np.where(error > 0, p, np.where(size == 0, 1.0, 0.0)))


def _vertex(x: Array, y: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Vertex (position, height) of the parabola around the lowest point of each curve, and where there is none to draw.

    x: (K,) increasing; y: (R, K); returns three arrays (R,). Where the lowest point is an end of the grid, that point.
    """
    lowest = y.argmin(axis=1)
    edge = (lowest == 0) | (lowest == x.size - 1)
    if edge.all():
        return x[lowest], y.min(axis=1), edge
    middle = np.clip(lowest, 1, x.size - 2)
    x0, x1, x2 = (x[middle + j] for j in (-1, 0, 1))
    y0, y1, y2 = (np.take_along_axis(y, middle[:, None] + j, axis=1)[:, 0] for j in (-1, 0, 1))
    slope = (y1 - y0) / (x1 - x0)
    curvature = ((y2 - y1) / (x2 - x1) - slope) / (x2 - x0)
    edge |= curvature <= 0
    curvature = np.where(edge, 1.0, curvature)
    vertex = (x0 + x1) / 2 - slope / (2 * curvature)
    height = y1 - curvature * (x1 - vertex) ** 2
    return np.where(edge, x[lowest], vertex), np.where(edge, y.min(axis=1), height), edge


def _reach(grid: Array, mean: Array, level: float) -> tuple[float, bool]:
    """Where a curve that starts at its minimum rises above the level, and whether the grid ends before it does."""
    above = np.flatnonzero(mean > level)
    if not above.size:
        return float(grid[-1]), True
    return math.exp(_crossing(np.log(grid), mean, int(above[0]), level)), False


def _crossing(x: Array, y: Array, i: int, level: float) -> float:
    """Where the segment that ends in point i meets the level; the point itself if it is the first."""
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * ((level - y[i - 1]) / (y[i] - y[i - 1])))
