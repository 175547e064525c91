"""Neural cellular automata as a corpus: each sequence is the trajectory of a random rule, to be inferred in context.

A rule is a random network on a torus of cells with n states each. For every cell, with states one-hot as channels,

    z = conv3x3(x) (n -> 4),   z = conv1x1(z) (4 -> 16),   logits = conv1x1(relu(z)) (16 -> n),
    next state ~ softmax(logits / T)

A rule is kept if gzip compresses the first grids after burn-in by a ratio inside a band: neither frozen nor noise.
A grid becomes one token for each 2x2 patch, whose cells are the digits of a number in base n, between a start and an
end token. No token of a sequence's first grid is a target, since nothing before it says which rule it is.

Source: Lee, Han, Kumar, Agrawal, "Training Language Models via Neural Cellular Automata", arXiv 2603.10055.
Differs from its released code: cells start uniform and T is 1e-3, as in the paper; the torus wraps in space only.
"""

import dataclasses
import gzip
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from ngpt.errors import InputError, require

Cells = NDArray[np.uint8]
CANDIDATES = 256
"""Rules that are drawn and simulated together. Another number would change what every seed draws."""
MOST_CELLS = 10**9
"""Cells in all steps of all rules: ten times what the paper has"""
TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal variable truncated at 2."""


@dataclass(frozen=True, kw_only=True)
class Automaton:
    """The distribution of trajectories. All defaults but the number of rules are the paper's."""

    rules: int = 1000
    """training sequences, each from a rule of its own; the paper has 16,000"""
    states: int = 10
    grid: int = 12
    """cells per side of the torus, even"""
    grids: int = 27
    """grids per sequence, after burn-in"""
    burn_in: int = 10
    """steps before the first grid"""
    temperature: float = 1e-3
    ratio_low: float = 0.5
    ratio_high: float = 1.0
    """a rule is kept if the compressed size over the plain size lies strictly between the two"""
    ratio_grids: int = 10
    """grids after burn-in over which the ratio is measured"""

    def __post_init__(self) -> None:
        positive = min(self.rules, self.states - 1, self.grids, self.temperature, self.ratio_grids) > 0
        finite = math.isfinite(self.temperature + self.ratio_low + self.ratio_high)
        if not positive or not finite or self.states > 15 or self.grid < 4 or self.grid % 2 or self.burn_in < 0:
            raise InputError("--data nca: 2 to 15 states, an even grid of at least 4, and the rest positive and finite")
        require(self.ratio_grids <= self.grids, "--data nca: ratio_grids must not exceed grids")
        cells = max(self.rules, CANDIDATES) * self.grid**2 * (self.burn_in + self.grids)
        many = f"--data nca: {cells:.1e} cells in all steps of all rules, and at most {MOST_CELLS:.0e} are simulated"
        require(cells <= MOST_CELLS, many)

    @classmethod
    def named(cls, name: str) -> "Automaton":
        """Parse `nca`, or `nca:states=4,grid=8` with any of the fields. Raises InputError in one line."""
        kinds: dict[str, type] = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values: dict[str, int | float] = {}
        for part in filter(None, name.partition(":")[2].split(",")):
            key, _, text = part.partition("=")
            require(key in kinds, f"--data {name}: {key!r} is not one of {', '.join(kinds)}")
            require(key not in values, f"--data {name}: {key} is given twice")
            try:
                values[key] = kinds[key](text)
            except ValueError as error:
                raise InputError(f"--data {name}: {key} must be {kinds[key].__name__}: {text!r}") from error
        return cls(**values)  # type: ignore[arg-type]

    @property
    def tokens_per_grid(self) -> int:
        """Number of tokens: patches, start and end."""
        return (self.grid // 2) ** 2 + 2

    @property
    def tokens_per_sequence(self) -> int:
        """Number of tokens of a whole sequence."""
        return self.grids * self.tokens_per_grid

    @property
    def vocab_size(self) -> int:
        """Number of token ids: all patches, start and end."""
        return self.states**4 + 2


@dataclass(frozen=True)
class Rules:
    """Random rules, R of them."""

    spatial: NDArray[np.float32]
    """(R, 9, n, 4), by the neighbor's place, row by row, and by its state"""
    hidden: NDArray[np.float32]
    """(R, 4, 16)"""
    out: NDArray[np.float32]
    """(R, 16, n)"""

    @classmethod
    def draw(cls, number: int, states: int, rng: np.random.Generator) -> "Rules":
        """Draw weights from a normal truncated at two standard deviations, of variance 1/fan-in; biases are zero."""

        def weights(*shape: int, fan_in: int) -> NDArray[np.float32]:
            values = rng.standard_normal(shape)
            while (outside := np.abs(values) > 2).any():
                values[outside] = rng.standard_normal(int(outside.sum()))
            return (values / (TRUNCATED_STD * fan_in**0.5)).astype(np.float32)

        spatial = weights(number, 9, states, 4, fan_in=9 * states)
        return cls(spatial, weights(number, 4, 16, fan_in=4), weights(number, 16, states, fan_in=16))

    def __getitem__(self, kept: NDArray[np.bool_]) -> "Rules":
        return Rules(self.spatial[kept], self.hidden[kept], self.out[kept])

    def logits(self, cells: Cells) -> NDArray[np.float32]:
        """Map states (R, H, W) to the logits (R, H, W, n) of the next ones."""
        rule = np.arange(len(cells))[:, None, None]
        z = np.zeros((*cells.shape, 4), np.float32)
        for place, (i, j) in enumerate(np.ndindex(3, 3)):  # the convolution of one-hot channels is a table lookup
            z += self.spatial[rule, place, np.roll(cells, (1 - i, 1 - j), axis=(1, 2))]
        flat = rearrange(z, "r h w c -> r (h w) c")
        logits = np.maximum(flat @ self.hidden, 0) @ self.out
        return rearrange(logits, "r (h w) n -> r h w n", h=cells.shape[1])


def step(rules: Rules, cells: Cells, temperature: float, rng: np.random.Generator) -> Cells:
    """Draw the next states from softmax(logits / temperature), by the Gumbel-max trick."""
    logits = rules.logits(cells)
    noise = -np.log(np.maximum(rng.standard_exponential(logits.shape, dtype=np.float32), np.float32(1e-30)))
    return np.argmax(logits + temperature * noise, axis=-1).astype(np.uint8)


def patch_tokens(cells: Cells, states: int) -> NDArray[np.int32]:
    """Map cells (..., H, W) to tokens (..., H/2 * W/2), patches and the cells in them in row-major order."""
    patches = rearrange(cells, "... (h p) (w q) -> ... (h w) (p q)", p=2, q=2).astype(np.int32)
    return patches @ states ** np.arange(3, -1, -1, dtype=np.int32)


def gzip_ratio(tokens: NDArray[np.int32]) -> float:
    """Return the compressed over the plain size of 32-bit patch tokens."""
    plain = np.ascontiguousarray(tokens, "<i4").tobytes()
    return len(gzip.compress(plain, compresslevel=9, mtime=0)) / len(plain)


def trajectories(automaton: Automaton, count: int, *, stream: int) -> NDArray[np.uint16]:
    """Return the first `count` sequences (count, tokens_per_sequence) of stream number `stream` of the automaton.

    Raises InputError if hardly any rule is inside the band.
    """
    found: list[NDArray[np.uint16]] = []
    while (have := sum(map(len, found))) < count:
        tokens, ratios = simulate(automaton, np.random.Generator(np.random.Philox(key=[stream, len(found)])))
        found.append(tokens)
        if have < len(found) / 4 - 1:
            low, high = ratios.min(), ratios.max()
            raise InputError(f"--data nca: hardly any rule is kept; gzip ratios are {low:.2f} to {high:.2f}")
    return np.concatenate(found)[:count]


def simulate(automaton: Automaton, rng: np.random.Generator) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Simulate CANDIDATES rules; return the sequences of those inside the band and all gzip ratios (CANDIDATES,)."""
    n = automaton.states
    rules = Rules.draw(CANDIDATES, n, rng)
    cells = rng.integers(0, n, (CANDIDATES, automaton.grid, automaton.grid), dtype=np.uint8)
    for _ in range(automaton.burn_in):
        cells = step(rules, cells, automaton.temperature, rng)
    seen = _roll_out(rules, cells, automaton.ratio_grids, automaton, rng)
    ratios = np.array([gzip_ratio(tokens) for tokens in patch_tokens(np.stack(seen, axis=1), n)])
    kept = (ratios > automaton.ratio_low) & (ratios < automaton.ratio_high)
    rules, first = rules[kept], [cells[kept] for cells in seen]
    rest = _roll_out(rules, first[-1], automaton.grids - len(first) + 1, automaton, rng)[1:]
    patches = patch_tokens(np.stack(first + rest, axis=1), n)
    start, end = (np.full((*patches.shape[:2], 1), n**4 + i) for i in (0, 1))
    tokens = rearrange(np.concatenate([start, patches, end], axis=2), "s g t -> s (g t)")
    return tokens.astype(np.uint16), ratios


def _roll_out(rules: Rules, cells: Cells, grids: int, automaton: Automaton, rng: np.random.Generator) -> list[Cells]:
    """Return `grids` grids, of which `cells` is the first."""
    found = [cells]
    while len(found) < grids:
        found.append(step(rules, found[-1], automaton.temperature, rng))
    return found


def describe(automaton: Automaton, *, shown: int = 4, grids: int = 8) -> dict[str, Any]:
    """Describe the first candidates of the training stream, for a report.

    Returns the automaton's fields, the number of rules kept, the gzip ratios of all, and the first `grids` grids of
    `shown` trajectories.
    """
    kept, ratios = simulate(automaton, np.random.Generator(np.random.Philox(key=[0, 0])))
    tokens = kept[:shown].reshape(-1, automaton.grids, automaton.tokens_per_grid)[:, :grids, 1:-1].astype(int)
    digits = tokens[..., None] // automaton.states ** np.arange(3, -1, -1) % automaton.states
    side = automaton.grid // 2
    cells = rearrange(digits, "s g (h w) (p q) -> s g (h p) (w q)", h=side, w=side, p=2, q=2)
    return dataclasses.asdict(automaton) | {
        "vocabulary": automaton.vocab_size, "tokens_a_sequence": automaton.tokens_per_sequence,
        "candidates": CANDIDATES, "kept": len(kept),
        "ratios": [round(float(ratio), 4) for ratio in np.sort(ratios)], "trajectories": cells.tolist(),
    }  # fmt: skip
