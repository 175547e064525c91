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
from scipy import special, stats

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
class ArmComparison:
    """One arm against the baseline of its table."""

    arm: int
    """Column of the arm in the table."""
    difference: PairedDifference | None
    """Arm minus baseline on the arm's own complete pairs; None where there are fewer than two."""
    p_pooled: float | None
    """See `pooled_p_values`; None for an arm with missing runs, which the pooled model leaves out."""
    p_holm: float | None
    """p_pooled after Holm's correction over all arms compared."""
    n_missing: int
    """Seeds on which the arm has no result."""

    @property
    def distinguishable(self) -> bool:
        """Whether the difference is more than noise: own t interval without zero, Holm p below 0.05, no run missing.

        Both tests, for two reasons. The pooled one has (n - 1)(k - 1) degrees of freedom instead of n - 1: with 5 seeds
        and 6 arms, Holm over paired t-tests alone finds an effect of three noise floors only 60% of the time, this rule
        about 90%. But it assumes one spread for all arms, so that an arm noisier than the rest would pass too easily;
        its own interval stops that.
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
    d = np.sort(x[paired] - y[paired])
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


def pooled_p_values(table: Array, baseline: int) -> Array:
    """Two-sided p of each arm minus the baseline in a randomised complete block model: noise pooled over all arms.

        y_ij = seed_i + arm_j + e_ij,  i = 1..n,  j = 1..k
        s^2 = sum e_ij^2 / ((n - 1)(k - 1)),  t_j = (arm_j - arm_baseline) / sqrt(2 s^2 / n)

    table: (S, K), reduced to the n seeds that are complete for all k arms. Returns (K - 1,): the arms in their order
    without the baseline. For k = 2 this is the paired t-test. Assumes the same spread in every arm: one arm far noisier
    than the rest raises every other arm's p. Raises ValueError for fewer than two complete seeds.

    Source: Montgomery, Design and Analysis of Experiments, chapter 4 (randomised complete block design).
    """
    table, arms = _checked(table, baseline)
    complete = table[np.isfinite(table).all(axis=1)]
    n, k = complete.shape
    if n < 2:
        raise ValueError(f"the block model needs at least 2 seeds complete for all {k} arms, got {n}")
    if k == 1:
        return np.empty(0)
    # Differences have the residuals of the values, with fewer digits lost; the baseline's own column stays, as zeros.
    differences = complete - complete[:, [baseline]]
    effects = differences.mean(axis=0)
    residuals = differences - effects
    residuals -= residuals.mean(axis=1, keepdims=True)
    df = (n - 1) * (k - 1)
    standard_error = math.sqrt(2 * float((residuals**2).sum()) / df / n)
    return _two_sided_p(effects[arms], standard_error, df)


def compare_to_baseline(
    table: Array, baseline: int, rng: np.random.Generator, *, resamples: int = 10_000
) -> list[ArmComparison]:
    """Compare every other arm with the baseline, each on its own pairs and all together under one error rate.

    table: (S, K). resamples: of each arm's bootstrap interval, 0 for none. An arm with missing runs is compared on the
    pairs that are left, but those are the runs that survived: it is kept out of the pooled model, counts in Holm's
    family with p = 1, and is never distinguishable. A seed without the baseline drops out for all arms and is no arm's
    failure. Raises ValueError if `baseline` is no column.
    """
    table, arms = _checked(table, baseline)
    present = np.isfinite(table)
    pairs = present & present[:, [baseline]]
    whole = [arm for arm in arms if present[:, arm].all() and pairs[:, arm].sum() >= 2]
    pooled = dict(zip(whole, pooled_p_values(table[:, [baseline, *whole]], 0).tolist(), strict=True)) if whole else {}
    adjusted = dict(zip(arms, holm([pooled.get(arm, 1.0) for arm in arms]).tolist(), strict=True))
    return [
        ArmComparison(
            arm=arm,
            difference=(
                paired_difference(table[:, arm], table[:, baseline], rng, resamples=resamples)
                if pairs[:, arm].sum() >= 2
                else None
            ),
            p_pooled=pooled.get(arm),
            p_holm=adjusted[arm] if arm in pooled else None,
            n_missing=int((~present[:, arm]).sum()),
        )
        for arm in arms
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


def _two_sided_p(estimate: ArrayLike, standard_error: float, df: int) -> Array:
    estimate = np.asarray(estimate, dtype=np.float64)
    if standard_error == 0:
        return np.where(estimate == 0, 1.0, 0.0)
    return np.asarray(2 * special.stdtr(df, -np.abs(estimate) / standard_error))  # stats.t.sf without its overhead


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
