"""Compilation ahead of the first run: what a campaign's fork server has compiled serves the processes of all its runs.

Nothing else can be handed to the server, so an environment variable tells it what to compile. This module imports torch
only there, and not in the runner.
"""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress

from ngpt.config import RunConfig, from_dict
from ngpt.errors import InputError, require

VARIABLE = "NGPT_COMPILE_AHEAD"

NOTE = "compiling forward and backward pass: half a minute the first time on a machine"
"""Line for people before a compilation"""

MOST = 16
"""Most kinds of models that the server compiles; runs of others compile for themselves"""

CXX = "clang++" if sys.platform == "darwin" else "g++"
"""The compiler that torch.compile calls on a CPU unless the variable CXX names another"""


def missing_compiler() -> str | None:
    """Return the name of the compiler that torch.compile calls on a CPU if it is not there, else None."""
    name = os.environ.get("CXX", CXX)
    return name if shutil.which(name) is None else None


def require_compiler() -> None:
    """Raise InputError if the compiler that torch.compile calls on a CPU is not there."""
    name = missing_compiler()
    need = f"--compile needs a C++ compiler, and there is no {name} on this machine"
    require(name is None, f"{need}: install it, or give --no-compile, which is slower")


def want(configs: Iterable[RunConfig]) -> None:
    """Note for a fork server that is started later which runs to compile for, one of each kind of model and batch."""
    kinds = {(one.model, one.data, one.train.batch_size, one.train.dtype): one for one in configs if one.train.compile}
    os.environ[VARIABLE] = json.dumps([dataclasses.asdict(one) for one in list(kinds.values())[:MOST]])


def compile_wanted() -> None:
    """Compile what is wanted, for one thread of a CPU. What fails here fails in its runs too, which say why."""
    wanted = [from_dict(content) for content in json.loads(os.environ.get(VARIABLE, "[]"))]
    if wanted:
        print(NOTE, file=sys.stderr, flush=True)
    for config in wanted:
        with suppress(InputError, OSError, RuntimeError):
            _compile(config)


def _compile(config: RunConfig) -> None:
    """Compute the gradients of one batch as a run of this configuration would, so that both passes are compiled."""
    import torch

    from ngpt.data.batches import Batches
    from ngpt.data.corpus import load_corpus
    from ngpt.model import build_model
    from ngpt.training import environment
    from ngpt.training.step import Feed, compiled_loss

    device = torch.device("cpu")
    environment.prepare(device, threads=1)
    corpus = load_corpus(config.data)
    model = build_model(config.model, corpus.vocab_size, seed=config.seed)
    windows = corpus.windows(corpus.train, config.model.seq_len)
    x_BT, y_BT = Feed(Batches(windows, batch_size=config.train.batch_size, seed=config.seed), device).at(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.train.dtype == "bfloat16"):
        loss = compiled_loss()(model, x_BT, y_BT)
    loss.backward()  # type: ignore[no-untyped-call]
