"""Cellular automata: a rule against loops in float64, its sampling law, what a sequence is made of and what is kept."""

import dataclasses
import itertools
import math
import time

import numpy as np
import pytest
from scipy import stats

from ngpt.config import DataConfig
from ngpt.data.batches import IGNORE_INDEX, Batches
from ngpt.data.cellular import CANDIDATES, Automaton, Rules, gzip_ratio, patch_tokens, simulate, step, trajectories
from ngpt.data.corpus import load_corpus
from ngpt.errors import InputError
from ngpt.presets import resolve

PAPER = Automaton()
SMALL = Automaton(rules=40, states=3, grid=6, grids=5, ratio_grids=4, burn_in=2, ratio_low=0.3)


def generator(stream: int, batch: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[stream, batch]))


def cells_of(tokens: np.ndarray, automaton: Automaton) -> np.ndarray:
    """The inverse of the tokenization by hand: (S, L) tokens to (S, grids, H, W) cells."""
    n, side = automaton.states, automaton.grid // 2
    grids = tokens.astype(int).reshape(len(tokens), automaton.grids, automaton.tokens_per_grid)[:, :, 1:-1]
    cells = np.zeros((len(tokens), automaton.grids, automaton.grid, automaton.grid), int)
    for place in range(side * side):
        row, column = divmod(place, side)
        for digit, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            cells[:, :, 2 * row + i, 2 * column + j] = grids[:, :, place] // n ** (3 - digit) % n
    return cells


def logits_by_loops(rules: Rules, rule: int, cells: np.ndarray) -> np.ndarray:
    """Convolutions of the one-hot cells on a torus, entry by entry in float64."""
    height, width = cells.shape
    states = rules.out.shape[-1]
    found = np.zeros((height, width, states))
    for y, x in itertools.product(range(height), range(width)):
        z = np.zeros(4)
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            one_hot = np.eye(states)[cells[(y + dy) % height, (x + dx) % width]]
            z += one_hot @ rules.spatial[rule, 3 * (dy + 1) + dx + 1].astype(float)
        hidden = [max(0.0, float(z @ rules.hidden[rule, :, k].astype(float))) for k in range(16)]
        found[y, x] = np.array(hidden) @ rules.out[rule].astype(float)
    return found


@pytest.mark.parametrize(("states", "shape"), [(2, (4, 4)), (10, (4, 6)), (3, (12, 12))])
def test_a_rule_is_the_network_it_says(states: int, shape: tuple[int, int]) -> None:
    rng = generator(1)
    rules, cells = Rules.draw(3, states, rng), rng.integers(0, states, (3, *shape), dtype=np.uint8)
    got = rules.logits(cells)
    assert got.shape == (3, *shape, states) and got.dtype == np.float32
    for rule in range(3):
        np.testing.assert_allclose(got[rule], logits_by_loops(rules, rule, cells[rule]), rtol=1e-5, atol=1e-6)


def test_weights_have_variance_one_over_fan_in_and_end_at_two_deviations() -> None:
    rules = Rules.draw(400, 10, generator(2))
    for weights, fan_in in ((rules.spatial, 90), (rules.hidden, 4), (rules.out, 16)):
        assert weights.var() == pytest.approx(1 / fan_in, rel=0.03) and abs(weights.mean()) < 0.05 / fan_in**0.5
        assert 1.9 < np.abs(weights).max() * fan_in**0.5 * 0.8796 <= 2.0 + 1e-6


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_the_next_state_is_drawn_from_the_softmax(temperature: float) -> None:
    rng, draws = generator(3), 4000
    rules, cells = Rules.draw(1, 4, rng), rng.integers(0, 4, (1, 4, 4), dtype=np.uint8)
    many = Rules(*(np.repeat(part, draws, axis=0) for part in (rules.spatial, rules.hidden, rules.out)))
    drawn = step(many, np.repeat(cells, draws, axis=0), temperature, rng)
    scaled = logits_by_loops(rules, 0, cells[0]) / temperature
    share = np.exp(scaled) / np.exp(scaled).sum(-1, keepdims=True)
    p_values = [
        stats.chisquare(np.bincount(drawn[:, y, x], minlength=4), share[y, x] * draws).pvalue
        for y, x in itertools.product(range(4), repeat=2)
    ]
    assert min(p_values) > 0.001 / 16 and stats.kstest(p_values, "uniform").pvalue > 0.001


def test_a_patch_is_a_number_of_four_digits() -> None:
    cells = np.array([[1, 2, 0, 9], [3, 4, 0, 0], [0, 0, 7, 7], [0, 1, 7, 7]], np.uint8)
    assert patch_tokens(cells, 10).tolist() == [1234, 900, 1, 7777]
    assert patch_tokens(np.full((2, 2), 14, np.uint8), 15).tolist() == [15**4 - 1]


def test_the_paper_s_sequence_has_the_paper_s_numbers() -> None:
    assert (PAPER.tokens_per_grid, PAPER.tokens_per_sequence, PAPER.vocab_size) == (38, 1026, 10_002)
    corpus = load_corpus(DataConfig(data="nca:rules=8"))
    assert corpus.record == 1026 and corpus.vocab_size == 10_002 and corpus.train.dtype == np.uint16
    x, y = Batches(corpus.windows(corpus.train, 1024), batch_size=8, seed=0).at(0)
    assert ((y != IGNORE_INDEX).sum(axis=1) == 987).all() and (x[:, 0] == 10_000).all() and (x < 10_002).all()


@pytest.mark.parametrize("automaton", [PAPER, SMALL], ids=["paper", "small"])
def test_a_sequence_is_one_rule_s_trajectory(automaton: Automaton) -> None:
    """Each grid follows from the one before by one rule, up to cells whose two best logits nearly tie."""
    tokens, ratios = simulate(automaton, generator(7))
    rules = Rules.draw(CANDIDATES, automaton.states, generator(7))
    kept = (ratios > automaton.ratio_low) & (ratios < automaton.ratio_high)
    assert len(tokens) == kept.sum() > 10
    grids = tokens.reshape(len(tokens), automaton.grids, -1)
    first, last = automaton.vocab_size - 2, automaton.vocab_size - 1
    assert (grids[:, :, 0] == first).all() and (grids[:, :, -1] == last).all() and (grids[:, :, 1:-1] < first).all()
    cells = cells_of(tokens, automaton).astype(np.uint8)
    for now, then in itertools.pairwise(np.moveaxis(cells, 1, 0)):
        logits = rules[kept].logits(now)
        second, best = np.moveaxis(np.sort(logits, axis=-1)[..., -2:], -1, 0)
        clear = best - second > 40 * automaton.temperature
        assert clear.mean() > 0.5 and (np.argmax(logits, axis=-1) == then)[clear].all()
        assert (np.roll(np.argmax(logits, axis=-1), 1, axis=0) == then)[clear].mean() < 0.9


def test_what_is_kept_is_inside_the_band_measured_on_its_first_grids() -> None:
    sequences, ratios = simulate(PAPER, generator(0, 0))
    patches = sequences.reshape(len(sequences), 27, 38)[:, :10, 1:-1].astype(np.int32)
    again = [gzip_ratio(tokens) for tokens in patches]
    inside = ratios[(ratios > 0.5) & (ratios < 1.0)]
    np.testing.assert_array_equal(again, inside)
    assert 0.2 < len(inside) / CANDIDATES < 0.8 and len(ratios) == CANDIDATES
    noise = np.random.default_rng(0).integers(0, 10_000, 360).astype(np.int32)
    assert gzip_ratio(np.zeros(360, np.int32)) < 0.05 < 0.6 < gzip_ratio(noise) < 0.8


def test_a_stream_is_a_function_of_its_name_and_a_shorter_one_its_beginning() -> None:
    long, short = (trajectories(SMALL, count, stream=0) for count in (300, 5))
    assert long.shape == (300, SMALL.tokens_per_sequence)
    np.testing.assert_array_equal(long[:5], short)
    np.testing.assert_array_equal(long, trajectories(SMALL, 300, stream=0))
    other = trajectories(SMALL, 300, stream=1)
    assert len(np.unique(np.concatenate([long, other]), axis=0)) == 600
    hot = trajectories(dataclasses.replace(SMALL, temperature=0.5), 5, stream=0)
    assert (hot != short).mean() > 0.1


def test_the_corpus_gives_records_and_scores_no_first_grid() -> None:
    corpus = load_corpus(DataConfig(data="nca:rules=40,states=3,grid=6,grids=5,ratio_grids=4,burn_in=2,ratio_low=0.3"))
    assert (corpus.record, corpus.context, corpus.byte_lengths) == (SMALL.tokens_per_sequence, 11, None)
    assert len(corpus.train) == 40 * 55 and len(corpus.val) == 2 * 55
    np.testing.assert_array_equal(corpus.train.reshape(40, 55), trajectories(SMALL, 40, stream=0))
    windows = corpus.windows(corpus.train, 20)
    assert windows.count == 40
    x, y = windows.at([0, 39, 7])
    for row, record in enumerate((0, 39, 7)):
        np.testing.assert_array_equal(x[row], corpus.train[55 * record : 55 * record + 20])
        assert y[row].tolist() == [IGNORE_INDEX] * 10 + corpus.train[55 * record + 11 : 55 * record + 21].tolist()
    with pytest.raises(ValueError, match="a record of 55 tokens holds no window of 55"):
        corpus.windows(corpus.train, 55)
    other = load_corpus(DataConfig(data="nca:rules=40,states=3,grid=6,grids=5,ratio_grids=4,burn_in=3,ratio_low=0.3"))
    assert other.digest != corpus.digest


@pytest.mark.parametrize(
    ("name", "message"),
    [("nca:states=4,states=5", "states is given twice"),
     ("nca:sides=4", "'sides' is not one of rules, states"), ("nca:states=four", "states must be int: 'four'"),
     ("nca:states=1", "2 to 15 states"), ("nca:states=16", "2 to 15 states"), ("nca:grid=5", "an even grid"),
     ("nca:grid=2", "an even grid"), ("nca:rules=0", "the rest positive"), ("nca:temperature=0", "the rest positive"),
     ("nca:temperature=nan", "the rest positive"), ("nca:temperature=inf", "positive and finite"),
     ("nca:ratio_low=nan", "positive and finite"), ("nca:,,states", "states must be int: ''"),
     ("nca:grid=100000", r"3.7e\+14 cells in all steps of all rules, and at most 1e\+09 are simulated"),
     ("nca:rules=1000000000", "cells in all steps of all rules"), ("nca:grids=5", "ratio_grids must not exceed"),
     ("nca:grid=4,grids=2,ratio_grids=1,ratio_low=0.99", "hardly any")],
)  # fmt: skip
def test_an_automaton_that_is_none_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_corpus(DataConfig(data=name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("tokenizer", "data"), [("bytes", "nca"), ("gpt2", "nca:states=3"), ("patches", "stdlib")])
def test_patches_are_the_tokens_of_automata_alone(tokenizer: str, data: str) -> None:
    with pytest.raises(InputError, match=f"--tokenizer {tokenizer} cannot read --data {data}"):
        resolve(data=data, tokenizer=tokenizer)
    assert resolve(data="nca").data.tokenizer == "patches"


def test_a_million_tokens_take_less_than_a_minute_of_one_core() -> None:
    simulate(SMALL, generator(0, 0))
    begin = time.process_time()
    tokens, ratios = simulate(PAPER, generator(0, 1))
    assert tokens.size / (time.process_time() - begin) > 1e6 / 60 and math.isfinite(ratios.sum())
