"""Before the first step: what a run costs, and on a CPU its time, from products or steps measured here."""

import time
from dataclasses import dataclass
from statistics import median

import torch

from ngpt.config import RunConfig
from ngpt.cost import duration, hidden_entries, parameter_count, pass_operations, polar_operations
from ngpt.data.batches import Batches
from ngpt.data.corpus import Corpus, load_corpus
from ngpt.errors import require
from ngpt.kernels import dense
from ngpt.model import build_model
from ngpt.model.roles import parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.optim.trial import require_fit
from ngpt.training import environment
from ngpt.training.sharding import ParameterSharding
from ngpt.training.step import Feed, TrainingStep

ROWS, COLUMNS = 128, 1024
"""Sides of the products that are measured: a tenth of a second in all where bfloat16 is emulated"""

REPETITIONS = 3

EMULATED = 2.0
"""Factor by which a precision has to be slower than float32 for a note"""

REACHED = 0.4
"""Share of its products' measured rate that a whole step reaches on a CPU: 0.35 to 0.5 on the machines seen"""

WORTH_MEASURING = 0.15
"""Longest step, in seconds as `REACHED` predicts it, of which a few are made to measure it"""

MEASURED_SECONDS, WARM_UP = 1.5, 2
"""Seconds for which steps are timed, and the number of steps before them that are not"""

COMPILED = 0.75
"""Share of an eager step's time that a compiled one takes on a CPU (`benchmarks/compilation.py`)"""

WORTH_SAYING = 60.0
"""Shortest run, in seconds, whose length is announced"""


def require_windows(config: RunConfig, corpus: Corpus) -> None:
    """Raise InputError unless both splits hold a window of the run's length, and one with something to predict."""
    seq_len = config.model.seq_len
    whole = "" if corpus.record is None else f", in sequences of {corpus.record}"
    have = f"{len(corpus.train):,} training and {len(corpus.val):,} validation tokens{whole}"
    for split, tokens in (("training", corpus.train), ("validation", corpus.val)):
        fits = min(len(tokens), corpus.record or len(tokens)) > seq_len
        found = f" ({corpus.found})" if corpus.found else ""
        why = f"those for {split} hold no window of --seq-len {seq_len}"
        require(fits, f"--data {config.data.data}: {have}{found}: {why}")
    first = f"the first {corpus.context} tokens"
    require(corpus.context <= seq_len, f"--data {config.data.data}: --seq-len must reach beyond {first}")


def product_rate(dtype: torch.dtype) -> float:
    """Measure the operations per second of products in `dtype` on this CPU, the fastest of a few."""
    A, B = torch.ones(ROWS, COLUMNS, dtype=dtype), torch.ones(COLUMNS, COLUMNS, dtype=dtype)
    seconds = []
    for _ in range(REPETITIONS + 1):  # the first one warms up
        begin = time.perf_counter()
        dense.linear(A, B)
        seconds.append(time.perf_counter() - begin)
    return 2 * ROWS * COLUMNS**2 / min(seconds)


def floor_of(config: RunConfig, vocab_size: int) -> tuple[float, dict[str, float]]:
    """Return the least seconds of a step on this CPU, and the rates by precision from which they are computed."""
    work = pass_operations(config, vocab_size), polar_operations(config)
    names = config.train.dtype, config.optim.polar_dtype
    rates: dict[str, float] = {name: product_rate(getattr(torch, name)) for name in {*names, "float32"}}
    return work[0] / rates[names[0]] + work[1] / rates[names[1]], rates


def announcement(config: RunConfig, vocab_size: int, *, steps: int) -> list[str]:
    """Return what to tell a user before `steps` steps on a CPU; nothing if they are short and nothing is emulated."""
    at_least, rates = floor_of(config, vocab_size)
    names = config.train.dtype, config.optim.polar_dtype
    lines = []
    if steps * at_least > WORTH_SAYING:
        lines.append(f"a step takes at least {at_least:.2g} s here, {steps} steps {duration(steps * at_least)}")
    for flag, name in {"--polar-dtype": names[1], "--dtype": names[0]}.items():
        slower = rates["float32"] / rates[name]
        if slower > EMULATED:
            words = f"{name} is emulated on this processor: products are {slower:.1f}x as fast with"
            lines.append(f"{words} {flag} float32")
    return lines


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The cost of one run, in lines for people and in seconds."""

    lines: list[str]
    """for people: parameters, tokens, operations, time"""
    seconds: float | None
    """predicted training time; None on a GPU, where nothing is predicted"""


def outlook(config: RunConfig, *, device: str = "auto", threads: int = 0) -> Outlook:
    """Return what a run would cost, for `--dry-run`.

    device, threads: as in `Runtime`. On a CPU its time is predicted: from a few real steps where they are short, and
    else from the measured rate of products, of which a step reaches REACHED. Raises InputError as a run would for data
    that cannot be read or are too short.
    """
    corpus, place = load_corpus(config.data), environment.choose_device(device)
    require_windows(config, corpus)
    threads = threads or environment.default_threads(config, 1)
    budget, step_seconds, basis = config.train.time_budget_seconds, None, ""
    if place.type == "cpu":
        environment.prepare(place, threads)
        step_seconds, basis = predicted_step(config, corpus)
    steps: int | None = config.train.steps
    if budget is not None:
        steps = None if step_seconds is None else max(1, round(budget / step_seconds))
    seconds = budget
    if budget is None and step_seconds is not None:
        seconds = config.train.steps * step_seconds
    return Outlook(lines=_lines(config, corpus.vocab_size, steps, seconds, threads, basis), seconds=seconds)


def _lines(
    config: RunConfig, vocab_size: int, steps: int | None, seconds: float | None, threads: int, basis: str
) -> list[str]:
    hidden, size = hidden_entries(config.model), (config.train.batch_size, config.model.seq_len)
    passes, polar = pass_operations(config, vocab_size), polar_operations(config)
    whole = parameter_count(config.model, vocab_size)
    lines = [f"parameters: {whole:,}, {hidden:,} of them non-embedding (the entries of hidden matrices)"]
    a_step = size[0] * size[1]
    if steps is None:
        lines += [f"tokens: {a_step:,} a step of {size[0]} x {size[1]}, in as many steps as the time budget allows"]
        lines += [f"operations: {passes + polar:.3g} a step"]
    else:
        tokens, about = steps * a_step, "" if config.train.time_budget_seconds is None else "about "
        per = f"{tokens / hidden:.3g} per non-embedding parameter"
        lines += [f"tokens: {about}{tokens:,} in {steps:,} steps of {size[0]} x {size[1]}, {per}"]
        share = f", {polar / (passes + polar):.0%} of them the orthogonalizer's" if polar else ""
        lines += [f"operations: {about}{steps * (passes + polar):.3g}{share}"]
    if config.train.time_budget_seconds is not None:
        lines += [f"time: {config.train.time_budget_seconds:g} s of training, by its budget"]
    elif seconds is None:
        lines += ["time: not predicted on a GPU"]
    else:
        where = f"here on {threads} thread{'s' * (threads > 1)}"
        lines += [f"time: about {duration(seconds)} of training {where}, {basis}; validation comes on top"]
    return lines


def predicted_step(config: RunConfig, corpus: Corpus) -> tuple[float, str]:
    """Return the seconds that a step will take on this CPU, and in words what that rests on."""
    predicted = floor_of(config, corpus.vocab_size)[0] / REACHED
    if predicted > WORTH_MEASURING:
        return predicted, f"if a step reaches {REACHED:.0%} of the rate of its products, which was measured"
    taken = measured_steps(config, corpus)
    if config.train.compile:
        basis = f"{COMPILED:.0%} of what {len(taken)} steps took that were not compiled"
        return COMPILED * median(taken), basis
    return median(taken), f"measured on {len(taken)} steps"


def measured_steps(config: RunConfig, corpus: Corpus) -> list[float]:
    """Make a few real steps of a run on this CPU, eagerly, and return their seconds."""
    require_fit(config.optim)
    model, device = build_model(config.model, corpus.vocab_size, seed=config.seed), torch.device("cpu")
    optimizers = build_optimizers(model, config)
    windows = corpus.windows(corpus.train, config.model.seq_len)
    batches = Batches(windows, batch_size=config.train.batch_size, seed=config.seed)
    bfloat16 = torch.autocast("cpu", torch.bfloat16, enabled=config.train.dtype == "bfloat16")
    sharding = ParameterSharding(model, parameter_specs(model))
    feed = Feed(batches, device)
    step = TrainingStep(model, optimizers, feed, bfloat16, sharding, compiled=False, graphs=False)
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < WARM_UP + 3 or time.perf_counter() - begin < MEASURED_SECONDS:
        started = time.perf_counter()
        optimizers.schedule(step=len(taken), progress=0.0)
        step.take_gradients(len(taken))
        step.move()
        optimizers.projection.after_step(len(taken) + 1, measure=False)
        step.end(moved=True)
        taken.append(time.perf_counter() - started)
    return taken[WARM_UP:]
