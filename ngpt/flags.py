"""A configuration as command-line flags: their help, the shortest command line, notes for its user. No torch."""

import ast
import dataclasses
import functools
import inspect
import textwrap
from typing import Any

from ngpt.config import SECTIONS, RunConfig, flatten
from ngpt.foreign import is_class
from ngpt.presets import resolve
from ngpt.refusals import flag_name

WORDS = {field.name for section in SECTIONS.values() for field in dataclasses.fields(section)
         if field.metadata.get("words")}  # fmt: skip
"""fields whose flags take several words"""


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """Return the string below each field of a dataclass, by field name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return docs


def to_flags(config: RunConfig) -> list[str]:
    """Return the shortest command line that gives `config`, for reports to print.

    >>> to_flags(resolve("tiny", optimizer="adam", lr=0.02, seed=3))
    ['--optimizer', 'adam', '--lr', '0.02', '--seed', '3']
    """
    flat = flatten(config)
    chosen: dict[str, Any] = {}
    for decider in ("arch", "optimizer", "data", "schedule"):  # first those on which other defaults depend
        if flat[decider] != flatten(resolve(config.preset, **chosen))[decider]:
            chosen[decider] = flat[decider]
            chosen |= {"lr": flat["lr"]} if decider == "optimizer" and is_class(flat["optimizer"]) else {}
    base = flatten(resolve(config.preset, **chosen))
    chosen |= {name: value for name, value in flat.items() if base[name] != value and name not in ("preset", "seed")}
    flags = [] if config.preset == "tiny" else ["--preset", config.preset]
    for name, value in chosen.items():
        if isinstance(value, bool):
            flags.append(flag_name(name) if value else flag_name("no_" + name))
        else:
            text = "none" if value is None else f"{value}"
            if name in WORDS:
                flags += [flag_name(name), *text.split()]
                continue
            flags += [f"{flag_name(name)}={text}"] if text.startswith("-") else [flag_name(name), text]
    return flags + (["--seed", str(config.seed)] if config.seed else [])


def notes(config: RunConfig) -> list[str]:
    """Return what a user should know about a combination that is allowed but does less than it seems to."""
    optim = config.optim
    found = []
    if optim.weight_decay and not optim.cautious_wd and config.model.arch != "gpt" and optim.constraint == "vectors":
        found.append("on the sphere --weight-decay wd only lengthens the step, to lr / (1 - lr wd)")
    if optim.normuon is not None:
        parts = {"attention": "", "mlp-in": "in", "mlp-out": "out"}.get(optim.normuon_matrices, "in out").split()
        uneven = [part for part in parts if part == "in" or optim.normuon == "short-axis"]
        where = [{"in": "the MLP's input matrices", "out": "the MLP's output matrices"}[part] for part in uneven]
        where = ["the MLP's matrices"] if len(where) == 2 else where
        if config.model.arch == "gated-literal" and optim.normuon_matrices in ("all", "attention"):
            where.append("the joint matrix of queries, keys and values")
        equal = "rows of a polar factor are equally long, up to its error"
        acts = f"acts on {' and '.join(where)}: elsewhere {equal}" if where else f"changes little: there {equal}"
        found.append(f"--normuon {acts}")
    return found
