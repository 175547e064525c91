"""Batches as a pure function of (seed, step), and validation batches that count every target once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngpt.data.batches import IGNORE_INDEX, Batches, Windows, validation_batches
from ngpt.data.tokenizers import Tokens

COUNT = 1003


def stream(count: int = COUNT) -> Tokens:
    """Tokens that are their own positions, so that a batch says where it was cut."""
    return np.arange(count, dtype=np.uint16)


def batches(*, seed: int = 0, batch_size: int = 4, seq_len: int = 10, count: int = COUNT) -> Batches:
    return Batches(Windows(stream(count), seq_len), batch_size=batch_size, seed=seed)


def starts(source: Batches, steps: range) -> list[int]:
    """Position of each window visited in `steps`, in order."""
    return [int(row[0]) for step in steps for row in source.at(step)[0]]


def test_shape_dtype_and_targets_one_further_on() -> None:
    source = batches()
    for step in (0, 7, 1000):
        x, y = source.at(step)
        assert x.shape == y.shape == (4, 10) and x.dtype == y.dtype == np.int64
        np.testing.assert_array_equal(x, x[:, :1] + np.arange(10))
        np.testing.assert_array_equal(y, x + 1)
        assert not (x[:, 0] % 10).any()


def test_the_batch_depends_on_seed_and_step_alone() -> None:
    """Steps asked for in any order, from a fresh object or a used one, far apart and repeatedly."""
    asked = [60, 3, 25, 26, 3, 0, 24, 510, 1, 60]
    used = batches(seed=5)
    in_this_order = [used.at(step) for step in asked]
    for step, (x, y) in zip(asked, in_this_order, strict=True):
        fresh_x, fresh_y = batches(seed=5).at(step)
        np.testing.assert_array_equal(x, fresh_x)
        np.testing.assert_array_equal(y, fresh_y)


@given(
    count=st.integers(12, 400), batch_size=st.integers(1, 9), seq_len=st.integers(1, 11), seed=st.integers(0, 2**63 - 1)
)
def test_every_window_once_an_epoch(count: int, batch_size: int, seq_len: int, seed: int) -> None:
    source = batches(count=count, batch_size=batch_size, seq_len=seq_len, seed=seed)
    windows = (count - 1) // seq_len
    assert source.windows.count == windows
    visited = starts(source, range(-(-3 * windows // batch_size)))
    for epoch in range(3):
        assert sorted(visited[epoch * windows : (epoch + 1) * windows]) == [w * seq_len for w in range(windows)]


def test_epochs_and_seeds_have_their_own_order() -> None:
    """100 windows, so that two independent orders agree at about one place."""
    epochs = [range(0, 25), range(25, 50), range(50, 75)]
    orders = [starts(batches(seed=seed), epoch) for seed in (0, 1, 2**63 - 1) for epoch in epochs]
    orders.append(sorted(orders[0]))
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_the_batch_size_does_not_change_the_order() -> None:
    assert starts(batches(batch_size=2), range(60)) == starts(batches(batch_size=6), range(20))


def test_the_order_is_frozen() -> None:
    """A changed order silently changes every run, and breaks the pairing with runs already made."""
    assert starts(batches(seed=3), range(2)) == FROZEN


FROZEN = [790, 740, 160, 330, 350, 40, 960, 320]


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_stream_without_a_window_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="hold no window of 10"):
        batches(count=count)
    assert batches(count=11).windows.count == 1


@pytest.mark.parametrize(
    ("eval_tokens", "count", "windows"),
    [(100, COUNT, 10), (109, COUNT, 10), (10, COUNT, 1), (5, COUNT, 1), (10**6, COUNT, 100), (10**6, 1001, 100),
     (10**6, 1000, 99), (100, 11, 1)],
)  # fmt: skip
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_validation_is_spread_evenly_and_counts_each_target_once(
    eval_tokens: int, count: int, windows: int, batch_size: int
) -> None:
    cut = validation_batches(Windows(stream(count), 10), eval_tokens=eval_tokens, batch_size=batch_size)
    x, y = (np.concatenate([pair[side] for pair in cut]) for side in (0, 1))
    assert x.shape == y.shape == (windows, 10)
    starts = x[:, 0]
    np.testing.assert_array_equal(x, starts[:, None] + np.arange(10))
    np.testing.assert_array_equal(y, x + 1)
    whole = (count - 1) // 10
    assert set(starts % 10) == {0} and len(set(starts)) == windows, "whole windows, none twice"
    gaps = np.diff([*starts // 10, whole])
    assert starts[0] == 0 and gaps.max() <= gaps.min() + 1 + (whole // windows), "over the whole stream"
    if windows == whole:
        np.testing.assert_array_equal(x.ravel(), np.arange(windows * 10))
    assert [len(pair[0]) for pair in cut[:-1]] == [batch_size] * (len(cut) - 1)


@given(count=st.integers(2, 2000), first=st.integers(1, 40), second=st.integers(1, 40))
def test_spreading_what_is_spread_keeps_to_it(count: int, first: int, second: int) -> None:
    whole = Windows(stream(count), 1)
    spread = whole.spread(first)
    assert spread.count == min(first, whole.count) and spread.spread(spread.count) == spread
    subset = spread.spread(second).subset
    assert subset is not None and spread.subset is not None and set(subset) <= set(spread.subset)
    assert len(set(subset)) == len(subset)
    np.testing.assert_array_equal(spread.at([spread.count - 1])[0][:, 0], [spread.subset[-1]])
    for none in (0, -1):
        with pytest.raises(ValueError, match="no windows"):
            whole.spread(none)


@given(records=st.integers(1, 30), record=st.integers(2, 40), data=st.data())
def test_records_are_seen_from_their_beginning_and_their_context_is_no_target(
    records: int, record: int, data: st.DataObject
) -> None:
    seq_len = data.draw(st.integers(1, record - 1))
    context = data.draw(st.integers(0, seq_len))
    windows = Windows(stream(records * record), seq_len, record, context)
    assert windows.count == records
    source = Batches(windows, batch_size=records, seed=1)
    for x, y in (source.at(5), validation_batches(windows, eval_tokens=10**6, batch_size=records)[0]):
        assert sorted(x[:, 0]) == list(range(0, records * record, record))
        for row_x, row_y in zip(x, y, strict=True):
            at = np.arange(row_x[0], row_x[0] + seq_len + 1)
            np.testing.assert_array_equal(row_x, at[:-1])
            np.testing.assert_array_equal(row_y, np.where(at[1:] % record < context, IGNORE_INDEX, at[1:]))


def test_a_record_must_be_longer_than_its_window() -> None:
    Windows(stream(30), 9, record=10)
    with pytest.raises(ValueError, match="a record of 10 tokens holds no window of 10"):
        Windows(stream(30), 10, record=10)


def test_a_window_must_reach_beyond_the_context() -> None:
    assert (Windows(stream(30), 5, record=10, context=5).at([0])[1] != IGNORE_INDEX).sum() == 1
    with pytest.raises(ValueError, match="no target behind 6 tokens"):
        Windows(stream(30), 5, record=10, context=6)


def test_another_order_visits_the_same_windows_otherwise() -> None:
    """Every window once in an epoch, in an order that depends on the seed and on the order, and on nothing else."""
    windows = Windows(stream(101), 10)
    orders = {}
    for seed, order in ((1, 0), (1, 1), (1, 2), (2, 1)):
        batches = Batches(windows, batch_size=5, seed=seed, order=order)
        first = np.concatenate([batches.at(step)[0][:, 0] for step in range(2)])
        assert sorted(first) == sorted(windows.at(range(10))[0][:, 0])
        orders[seed, order] = tuple(first)
    assert len(set(orders.values())) == 4
    plain = Batches(windows, batch_size=5, seed=1)
    assert orders[1, 0] == tuple(np.concatenate([plain.at(step)[0][:, 0] for step in range(2)]))
