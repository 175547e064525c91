"""Known answers from scipy and from the hand, symmetries that any such statistic obeys, and degenerate inputs."""

import math
from dataclasses import asdict
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special, stats

from ngpt.campaign.analysis.statistics import (
    Array,
    PairedDifference,
    best_lr,
    compare,
    holm,
    losses_at_optimum,
    moderated_p_values,
    paired_difference,
    sample_mean,
    seeds_to_decide,
    share_of_descent,
    steps_to_reach,
)

NAN = math.nan
light = settings(max_examples=60, deadline=None, database=None)
# Multiples of 1/64: sums and shifts of them are exact in float64, so that symmetries can be asked for exactly.
values = st.integers(-640, 640).map(lambda i: i / 64)


def tables(arms: int | st.SearchStrategy[int], seeds: int = 8) -> st.SearchStrategy[Array]:
    shape = st.tuples(st.integers(2, seeds), st.just(arms) if isinstance(arms, int) else arms)
    return arrays(np.float64, shape, elements=values)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noisy(seeds: int = 5, arms: int = 6, seed: int = 0) -> Array:
    draw = rng(seed)
    return 3.0 + 3 * draw.normal(size=(seeds, 1)) + draw.normal(size=(seeds, arms))


# --- paired difference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [2, 3, 5, 30])
def test_paired_difference_is_the_paired_t_test(seeds: int) -> None:
    x, y = noisy(seeds, 2).T
    ours, theirs = paired_difference(x, y), stats.ttest_rel(x, y)
    interval = theirs.confidence_interval(0.95)
    assert_allclose([ours.t_low, ours.t_high, ours.p], [interval.low, interval.high, theirs.pvalue], rtol=1e-10)
    assert_allclose([ours.mean, ours.sd], [(x - y).mean(), (x - y).std(ddof=1)], rtol=1e-12)
    assert ours.n == seeds


def test_missing_seeds_are_dropped() -> None:
    x, y = np.array([1.0, NAN, 3.0, 5.0, math.inf]), np.array([0.5, 1.0, NAN, 4.0, math.inf])
    d = paired_difference(x, y)
    assert (d.n, d.mean) == (2, 0.75)


@pytest.mark.parametrize(("difference", "p"), [(0.0, 1.0), (0.1, 0.0), (-0.1, 0.0)])
def test_equal_differences_collapse_without_a_warning(difference: float, p: float) -> None:
    d = paired_difference(np.full(3, difference), np.zeros(3))
    assert (d.mean, d.sd, d.t_low, d.t_high, d.p) == (difference, 0.0, difference, difference, p)


@pytest.mark.parametrize(
    ("x", "y"), [([1.0], [2.0]), ([1.0, NAN], [2.0, 3.0]), ([], []), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])]
)
def test_too_few_pairs_or_unpaired_shapes_raise(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="pair"):
        paired_difference(np.array(x), np.array(y))


@light
@given(tables(2), values, st.randoms(use_true_random=False))
def test_paired_difference_symmetries(table: Array, shift: float, random: Random) -> None:
    x, y = table.T
    d = paired_difference(x, y)
    assert d == paired_difference(x + shift, y + shift), "a shift of both arms cancels"
    order = random.sample(range(len(x)), len(x))
    assert d == paired_difference(x[order], y[order]), "the order of seeds is irrelevant"
    r = paired_difference(y, x)
    assert_allclose([r.mean, r.t_low, r.t_high, r.sd, r.p], [-d.mean, -d.t_high, -d.t_low, d.sd, d.p], atol=1e-12)
    assert not any(math.isnan(value) for value in asdict(d).values())


# --- Holm and the pooled test --------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04 times 4 3 2 1 is .02 .03 .06 .04; the last is lifted to .06.
    assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert_allclose(holm([0.9, 0.8, 0.02]), [1.0, 1.0, 0.06])
    assert_array_equal(holm([0.04]), [0.04])
    assert holm([]).size == 0


@pytest.mark.parametrize("bad", [[0.1, NAN], [-0.1], [1.1], [[0.1]]])
def test_holm_refuses_what_is_no_p_value(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm(bad)


@light
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_order(p: list[float]) -> None:
    raw, adjusted = np.array(p), holm(p)
    assert np.all(raw <= adjusted) and np.all(adjusted <= np.minimum(1, raw * len(p)))
    assert np.all(np.diff(adjusted[np.argsort(raw)]) >= 0)


# --- moderated variances ---------------------------------------------------------------------------------------------


def against(baseline: int, arms: int) -> Array:
    """Weights of every other arm minus the baseline, in the order of the arms."""
    rows = np.eye(arms)
    rows[:, baseline] -= 1
    return np.delete(rows, baseline, axis=0)


def p_moderated(table: Array, contrasts: Array) -> Array:
    return np.array([c.p_moderated for c in compare(table, contrasts)], float)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
@pytest.mark.parametrize("baseline", [0, 1])
def test_two_arms_are_compared_by_the_paired_t_test(seeds: int, baseline: int) -> None:
    table = noisy(seeds, 2)
    assert_allclose(p_moderated(table, against(baseline, 2)), [stats.ttest_rel(*table.T).pvalue], rtol=1e-9)


def smyth(values: Array, scale: Array, arms: int) -> Array:
    """Smyth 2004 in its own words: G genes, d = n - 1, trigamma inverted by his Newton iteration."""
    d = len(values) - 1
    s2 = values.var(axis=0, ddof=1) / scale
    e = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
    excess = ((e - e.mean()) ** 2).sum() / (e.size - 1) - special.polygamma(1, d / 2)
    if excess <= 0:
        d0, s02 = np.inf, np.exp(e.mean())
        posterior, df = np.full(e.size, s02), d * (arms - 1)
    else:
        y = 0.5 + 1 / excess
        for _ in range(100):
            tri = special.polygamma(1, y)
            y += tri * (1 - tri / excess) / special.polygamma(2, y)
        d0, s02 = 2 * y, np.exp(e.mean() + special.digamma(y) - np.log(y))
        posterior, df = (d0 * s02 + d * s2) / (d0 + d), min(d0 + d, d * (arms - 1))
    t = values.mean(axis=0) / np.sqrt(posterior * scale / len(values))
    return np.asarray(2 * stats.t.sf(np.abs(t), df))


@pytest.mark.parametrize("noise", [(1, 1, 1, 1, 1, 1), (1, 1, 8, 1, 1, 1), (5, 1, 1, 2, 1, 0.2)])
def test_variances_are_moderated_as_in_the_source(noise: tuple[float, ...]) -> None:
    table = noisy(6, 6) * np.array(noise)
    contrasts = np.vstack([against(0, 6), [0, 1, -1, -1, 1, 0], np.array([1, 1, 1, -1, -1, -1]) / 3])
    want = smyth(table @ contrasts.T, (contrasts**2).sum(axis=1), 6)
    assert_allclose(p_moderated(table, contrasts), want, rtol=1e-6)


@light
@given(tables(st.integers(2, 5)), values, st.randoms(use_true_random=False))
def test_comparisons_ignore_seed_effects_and_order(table: Array, shift: float, random: Random) -> None:
    arms = table.shape[1]
    p = p_moderated(table, against(0, arms))
    assert np.all((p >= 0) & (p <= 1))
    order = random.sample(range(len(table)), len(table))
    assert_allclose(p_moderated(table[order], against(0, arms)), p, rtol=1e-6, atol=1e-9)
    places = [0, *random.sample(range(1, arms), arms - 1)]
    assert_allclose(p_moderated(table[:, places], against(0, arms)), p[np.array(places[1:]) - 1], rtol=1e-6, atol=1e-9)


def test_seed_effects_scales_of_tables_and_of_weights_change_no_p() -> None:
    table, contrasts = noisy(5, 5), against(0, 5)
    p = p_moderated(table, contrasts)
    assert_allclose(p_moderated(table + 100 * np.arange(5)[:, None], contrasts), p, rtol=1e-9)
    assert_allclose(p_moderated(1e-3 * table, contrasts), p, rtol=1e-9)
    assert_allclose(p_moderated(table, contrasts * [[0.1], [-1], [7], [1]]), p, rtol=1e-9)


def test_comparisons_without_noise() -> None:
    table = np.array([[0.0, 0.0, 0.5], [1.0, 1.0, 1.5], [4.0, 4.0, 4.5]])
    assert_array_equal(p_moderated(table, against(0, 3)), [1.0, 0.0])
    assert compare(table[:, :1], np.empty((0, 1))) == []
    (alone,) = compare(table[:1, :2], against(0, 2))
    assert alone.difference is None and alone.p_moderated is None and not alone.distinguishable
    with pytest.raises(ValueError, match="at least 2 seeds"):
        moderated_p_values(table[:1], np.ones(3), 3)


# --- contrasts -----------------------------------------------------------------------------------------------------


def test_compare_assembles_its_parts() -> None:
    table = noisy()
    table[:, 4] -= 8
    contrasts = against(2, 6)
    comparisons = compare(table, contrasts)
    p = smyth(table @ contrasts.T, np.full(5, 2.0), 6)
    assert_allclose(np.array([c.p_holm for c in comparisons], float), holm(p), rtol=1e-6)
    for arm, c in zip((0, 1, 3, 4, 5), comparisons, strict=True):
        d = paired_difference(table[:, arm], table[:, 2])
        assert c.difference is not None
        assert_allclose([c.difference.mean, c.difference.sd, c.difference.p], [d.mean, d.sd, d.p], rtol=1e-9)
    assert [c.distinguishable for c in comparisons] == [False, False, False, True, False]


def test_a_contrast_is_the_weighted_sum_of_its_arms() -> None:
    table = noisy(7, 4)
    (found,) = compare(table, np.array([[1.0, -1.0, -1.0, 1.0]]))
    d = (table[:, 0] - table[:, 1]) - (table[:, 2] - table[:, 3])
    assert found.difference is not None
    assert_allclose([found.difference.mean, found.difference.sd], [d.mean(), d.std(ddof=1)], rtol=1e-9)
    assert found.p_holm == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-9)


def test_distinguishable_needs_both_tests() -> None:
    # Arm 1: tiny, perfectly regular gain; its own interval is sure, the noise of the others is far above it.
    # Arm 2: large mean from one wild seed; the moderated p is small, its own interval contains zero.
    table = 0.05 * rng().normal(size=(5, 12))
    table[:, 1] = table[:, 0] - 0.001 * np.arange(1, 6)
    table[:, 2] = table[:, 0] - np.array([0.55, 0.0, 0.02, 0.0, 0.0])
    table[:, 3] = table[:, 0] - 3.0 - 0.05 * rng().normal(size=5)
    own, wild, clear = compare(table, against(0, 12))[:3]
    assert own.difference is not None and own.difference.excludes_zero and not own.distinguishable
    assert wild.difference is not None and not wild.difference.excludes_zero and not wild.distinguishable
    assert clear.distinguishable


def test_missing_runs_never_count_for_a_contrast() -> None:
    whole = noisy(arms=5)
    whole[:, 1:] -= [12, 12, 12, 0]
    table = whole.copy()
    table[2, 1], table[1:, 2] = NAN, NAN
    one_missing, one_left, best, same = compare(table, against(0, 5))
    assert (one_missing.n_missing, one_left.n_missing, best.n_missing, same.n_missing) == (1, 4, 0, 0)
    assert one_missing.difference is not None and one_missing.difference.n == 4
    assert one_missing.difference.excludes_zero and not one_missing.distinguishable
    assert (one_left.difference, one_left.p_moderated, one_left.p_holm) == (None, None, None)
    # Both incomplete arms stay in the family of four and out of the noise estimate.
    p = p_moderated(whole[:, [0, 3, 4]], against(0, 3))
    assert (best.p_moderated, same.p_moderated) == (pytest.approx(p[0]), pytest.approx(p[1]))
    assert best.p_holm == pytest.approx(4 * p[0]) and best.distinguishable


def test_a_seed_without_the_baseline_is_missing_for_every_arm() -> None:
    table = noisy()
    table[3, 0] = NAN
    found = compare(table, against(0, 6))
    kept = compare(np.delete(table, 3, axis=0), against(0, 6))
    assert [c.difference for c in found] == [c.difference for c in kept]
    assert all(c.n_missing == 1 and not c.distinguishable for c in found)


@light
@given(tables(st.integers(1, 4)))
def test_no_number_of_a_comparison_is_nan(table: Array) -> None:
    contrasts = against(0, table.shape[1])
    first, second = (compare(table, contrasts) for _ in range(2))
    assert first == second, "which a NaN anywhere would break"
    assert len(first) == table.shape[1] - 1


@pytest.mark.parametrize("row", [[1.0, 0, 0, 0, 0, 0], [0.0] * 6, [1, -0.5, 0, 0, 0, 0]])
def test_weights_that_are_no_contrast_raise(row: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to zero"):
        compare(noisy(), np.array([row]))
    with pytest.raises(ValueError, match="a weight for each arm"):
        compare(noisy(), np.array([row[:5]]))


def test_the_mean_of_a_sample_and_its_noise_floor() -> None:
    results = np.array([1.0, 2.0, 6.0, NAN])
    found, same = sample_mean(results), sample_mean(np.full(3, 0.1))
    assert found is not None and (found.mean, found.sd) == pytest.approx((3.0, math.sqrt(7)))
    assert (found.t_low, found.t_high) == pytest.approx(stats.t.interval(0.95, 2, 3.0, math.sqrt(7 / 3)))
    assert same is not None and (same.mean, same.sd, same.t_low) == (0.1, 0.0, 0.1)
    assert sample_mean(results[2:]) is None, "one result has no spread"


# --- learning rate -------------------------------------------------------------------------------------------------

GRID = np.array([0.001, 0.003, 0.01, 0.023, 0.05, 0.1])


def bowl(center: float, floor: float = 3.0, curvature: float = 0.2) -> Array:
    return floor + curvature * (np.log(GRID) - math.log(center)) ** 2


@pytest.mark.parametrize("center", [0.0031, 0.0088, 0.017, 0.03, 0.05])
def test_best_lr_of_a_parabola_is_its_vertex(center: float) -> None:
    seed_effects = np.array([[0.3], [-0.1], [0.1]])
    best = best_lr(GRID, bowl(center) + seed_effects, rng(), tolerance=0.01)
    assert_allclose([best.lr, best.lr_low, best.lr_high], center, rtol=1e-9)  # seed effects do not move the vertex
    assert not best.at_edge


def test_best_lr_is_least_squares_on_the_points_of_all_seeds() -> None:
    table = bowl(0.012) + 0.05 * rng(3).normal(size=(4, 6))
    lowest = int(table.mean(axis=0).argmin())
    near = slice(lowest - 1, lowest + 2)
    x = np.tile(np.log(GRID[near]), 4)
    a, b, _ = np.polyfit(x, table[:, near].ravel(), 2)
    best = best_lr(GRID, table, rng(), tolerance=0.01)
    assert_allclose(best.lr, math.exp(-b / (2 * a)), rtol=1e-9)
    assert best.lr_low is not None and best.lr_high is not None and best.lr_low < best.lr < best.lr_high
    assert best == best_lr(GRID, table, rng(), tolerance=0.01)
    order = [3, 0, 5, 1, 4, 2]
    assert best == best_lr(GRID[order], table[:, order], rng(), tolerance=0.01)


@pytest.mark.parametrize(("center", "edge"), [(1e-4, 0.001), (0.5, 0.1)])
def test_best_lr_at_the_edge_of_the_grid_is_that_rate(center: float, edge: float) -> None:
    best = best_lr(GRID, np.tile(bowl(center), (3, 1)), rng(), tolerance=0.01)
    assert (best.lr, best.at_edge) == (edge, True)
    assert (best.basin_open_low, best.basin_open_high) == (edge == GRID[0], edge == GRID[-1])


def test_best_lr_without_a_parabola() -> None:
    flat = best_lr(GRID, np.ones((2, 6)), rng(), tolerance=0.0)
    assert (flat.lr, flat.at_edge, flat.basin_open_low, flat.basin_open_high) == (0.001, True, True, True)
    assert flat.basin_width_decades == pytest.approx(2.0)
    two = best_lr(GRID[:2], np.array([[2.0, 1.0]]), rng(), tolerance=0.5)
    assert (two.lr, two.at_edge, two.lr_low, two.lr_high) == (0.003, True, None, None)


def test_best_lr_leaves_diverged_arms_out() -> None:
    table = bowl(0.03) + np.zeros((3, 1))
    table[1, 5] = NAN
    assert best_lr(GRID, table, rng(), tolerance=0.01).lr == pytest.approx(0.03)
    table[0, 4] = math.inf  # now the lowest arm has no neighbor above that survived
    best = best_lr(GRID, table, rng(), tolerance=0.01)
    assert (best.lr, best.at_edge, best.basin_open_high) == (0.023, True, True)


def test_basin_by_hand() -> None:
    grid = np.array([0.001, 0.01, 0.1, 1.0])
    table = np.array([[4.0, 2.0, 3.0, 3.5]])
    best = best_lr(grid, table, rng(), tolerance=0.5)
    assert_allclose([best.basin_low, best.basin_high], [10**-2.25, 10**-1.5], rtol=1e-12)
    assert best.basin_width_decades == pytest.approx(0.75)
    assert not best.basin_open_low and not best.basin_open_high
    wide = best_lr(grid, table, rng(), tolerance=1.5)
    assert (wide.basin_high, wide.basin_open_low, wide.basin_open_high) == (1.0, False, True)


def test_the_basin_stops_at_the_first_ridge() -> None:
    best = best_lr(np.array([0.001, 0.01, 0.1]), np.array([[1.0, 5.0, 1.1]]), rng(), tolerance=0.2)
    assert best.basin_high < 0.01 and not best.basin_open_high


@pytest.mark.parametrize(
    ("lrs", "tolerance", "table"),
    [
        ([0.1, 0.1], 0.1, np.ones((2, 2))),
        ([0.0, 0.1], 0.1, np.ones((2, 2))),
        ([0.1, NAN], 0.1, np.ones((2, 2))),
        ([0.1, 0.2], -0.1, np.ones((2, 2))),
        ([0.1, 0.2], 0.1, np.ones((2, 3))),
        ([0.1, 0.2], 0.1, np.full((2, 2), NAN)),
        ([0.1, 0.2], 0.1, np.ones((0, 2))),
    ],
)
def test_best_lr_refuses_bad_grids(lrs: list[float], tolerance: float, table: Array) -> None:
    with pytest.raises(ValueError, match="learning rate|tolerance"):
        best_lr(lrs, table, rng(), tolerance=tolerance)


@light
@given(arrays(np.float64, (3, 6), elements=values))
def test_best_lr_stays_in_its_grid_and_its_basin_holds_the_lowest_arm(table: Array) -> None:
    best = best_lr(GRID, table, rng(), resamples=20, tolerance=0.25)
    lowest = GRID[table.mean(axis=0).argmin()]
    assert GRID[0] <= best.lr <= GRID[-1]
    assert best.basin_low <= lowest * (1 + 1e-12) and lowest <= best.basin_high * (1 + 1e-12)
    assert not any(math.isnan(value) for value in asdict(best).values())


# --- steps and seeds -----------------------------------------------------------------------------------------------


def test_steps_to_reach_by_hand() -> None:
    steps, losses = [0, 10, 20, 30, 40], [5.0, 4.0, 3.0, 3.5, 2.0]
    assert steps_to_reach(steps, losses, 3.5) == 15.0
    assert steps_to_reach(steps, losses, 3.0) == 20.0  # the first time, though the curve rises again
    assert steps_to_reach(steps, losses, 2.75) == 35.0
    assert steps_to_reach(steps, losses, 6.0) == 0.0
    assert steps_to_reach(steps, losses, 1.0) == math.inf
    assert steps_to_reach(steps, [5.0, NAN, 3.0, math.inf, NAN], 4.0) == 10.0
    assert steps_to_reach([], [], 1.0) == math.inf


def test_share_of_descent_by_hand() -> None:
    steps, losses = [10, 20, 30, 40], [5.0, 4.0, 3.0, 2.0]
    found = [share_of_descent(steps, losses, amount) for amount in (0.0, 0.5, 1.0, 3.0, 3.5)]
    assert found == [0.0, 0.125, 0.25, 0.75, math.inf]
    # the last time that the loss was 0.2 above its end is on the way down from 2.6
    assert share_of_descent(steps, [3.0, 2.0, 2.6, 2.2], 0.2) == pytest.approx(0.125)


def test_losses_at_the_fitted_optimum_by_hand() -> None:
    """The mean over seeds is (x - 0.8)^2 in x = log10 lr; the two seeds lie x above and x below it."""
    lrs, x = np.array([1.0, 10.0, 100.0]), np.array([0.0, 1.0, 2.0])
    table = np.stack([(x - 0.8) ** 2 + x, (x - 0.8) ** 2 - x])
    assert losses_at_optimum(lrs, table) == pytest.approx([0.8, -0.8])
    turned = [2, 0, 1]
    assert losses_at_optimum(lrs[turned], table[:, turned]) == pytest.approx([0.8, -0.8]), "in any order"
    assert losses_at_optimum(lrs, table - 5 * x) is None, "the best rate is the last"
    assert losses_at_optimum(lrs[:2], table[:, :2]) is None
    gap = table.copy()
    gap[1, 2] = NAN
    assert losses_at_optimum(lrs, gap) is None, "a neighbor lacks a run"
    far = np.column_stack([table, [NAN, 9.0]])
    assert losses_at_optimum([*lrs, 1000.0], far) == pytest.approx([0.8, -0.8])


@pytest.mark.parametrize(
    ("steps", "losses", "target"), [([0, 1], [1.0], 0.5), ([1, 1], [2.0, 1.0], 1.5), ([0, 1], [2.0, 1.0], NAN)]
)
def test_steps_to_reach_refuses_what_is_no_curve(steps: list[int], losses: list[float], target: float) -> None:
    with pytest.raises(ValueError, match="curve|target"):
        steps_to_reach(steps, losses, target)


@light
@given(st.lists(values, min_size=2, max_size=10, unique=True), st.floats(0, 1))
def test_steps_to_reach_inverts_a_falling_curve(losses: list[float], part: float) -> None:
    curve = np.sort(losses)[::-1]
    steps = np.arange(len(curve)) * 25.0
    target = float(curve[-1] + part * (curve[0] - curve[-1]))
    reached = steps_to_reach(steps, curve, target)
    assert np.interp(reached, steps, curve) == pytest.approx(target, abs=1e-9)


def difference(mean: float, sd: float, n: int) -> PairedDifference:
    half = stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n)
    return PairedDifference(mean, sd, n, mean - half, mean + half, NAN)


@pytest.mark.parametrize("mean", [0.02, -0.02, 0.006, 0.0])
def test_seeds_to_decide_is_the_first_that_decides(mean: float) -> None:
    smallest, sd, n = 0.01, 0.03, 3
    needed = seeds_to_decide(difference(mean, sd, n), smallest)
    assert needed is not None and needed > n + 1

    def decides(seeds: int) -> bool:
        d = difference(mean, sd, seeds)
        return d.excludes_zero if abs(mean) >= smallest else max(abs(d.t_low), abs(d.t_high)) <= smallest

    assert decides(needed) and not decides(needed - 1)


def test_seeds_to_decide_at_its_limits() -> None:
    assert seeds_to_decide(difference(0.02, 0.0, 5), 0.01) == 6
    assert seeds_to_decide(difference(0.02, 1e-6, 5), 0.01) == 6
    assert seeds_to_decide(difference(0.01 - 1e-9, 0.03, 5), 0.01) is None
    assert seeds_to_decide(difference(0.02, 0.03, 10_000), 0.01) is None
    assert seeds_to_decide(difference(0.02, 0.03, 9_999), 0.01) == 10_000
