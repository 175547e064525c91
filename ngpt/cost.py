"""The floating-point operations of a training step, counted from its configuration, and times in words. No torch."""

from collections.abc import Iterable, Sequence

from ngpt.config import ModelConfig, RunConfig


def hidden_shapes(model: ModelConfig) -> list[tuple[int, int]]:
    """Return the shapes (m, n), m <= n, of the matrices of one layer: attention's, then the MLP's."""
    D, hidden = model.n_embd, model.mlp_hidden
    if model.arch == "gated-literal":
        return [(D, 3 * D), (D, D), (D, hidden), (D, hidden)]
    return [(D, D)] * 4 + [(min(D, hidden), max(D, hidden))] * 3


def hidden_entries(model: ModelConfig) -> int:
    """Return the number of entries of the hidden matrices: the parameters but embeddings, head, gates and scales."""
    return model.n_layer * sum(m * n for m, n in hidden_shapes(model))


def parameter_count(model: ModelConfig, vocab_size: int) -> int:
    """Return the number of all parameters, frozen ones included."""
    D, hidden = model.n_embd, model.mlp_hidden
    of_layer, outside = {
        "gated-ngpt": (2 * (D + 1) + D + 2 * hidden, vocab_size),
        "ngpt": (2 * D + D + 2 * hidden, vocab_size),
        "gpt": (2 * D, D),
        "gated-literal": (2 * (D + 1), model.seq_len * D + 1),
    }[model.arch]  # scales, gates and gains of a layer, and those outside the layers
    return hidden_entries(model) + 2 * vocab_size * D + model.n_layer * of_layer + outside


def pass_operations(config: RunConfig, vocab_size: int) -> float:
    """Return the operations of forward and backward pass in one step.

    6 per token and entry of a matrix, the head included; 12 T D per token and layer in the attention.
    """
    model = config.model
    entries = hidden_entries(model) + vocab_size * model.n_embd
    attention = 12 * model.n_layer * model.seq_len * model.n_embd
    return float(config.train.batch_size * model.seq_len * (6 * entries + attention))


def polar_operations(config: RunConfig) -> float:
    """Return the operations of Muon's orthogonalizer in one step; "svd", which takes more, as if it iterated."""
    if config.optim.optimizer != "muon":
        return 0.0
    cubic = "cubic" in config.optim.orthogonalizer or "literal" in config.optim.orthogonalizer
    layer = iteration_operations(hidden_shapes(config.model), cubic=cubic)
    return float(config.model.n_layer * config.optim.ns_steps * layer)


def iteration_operations(shapes: Iterable[Sequence[int]], *, cubic: bool = False) -> int:
    """Return the operations of one iteration of the orthogonalizer on matrices (m, n): 2 m m (2 n + m) where m <= n.

    A = X X', then B = b A + c A A, then a X + B X, with no use made of symmetry. A cubic has no A A: 4 m m n.
    """
    sides = (sorted(shape) for shape in shapes)
    return sum(4 * m * m * n if cubic else 2 * m * m * (2 * n + m) for m, n in sides)


def duration(seconds: float) -> str:
    """Return a time in the largest unit of which it has at least two, cut off.

    >>> duration(119), duration(120), duration(7200.5)
    ('119 s', '2 min', '2 h')
    """
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    unit, length = next(((name, length) for name, length in units if seconds >= 2 * length), units[-1])
    return f"{int(seconds // length)} {unit}"
