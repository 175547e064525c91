"""The command line of one run. Every configuration field is a flag, and its help is the string below the field."""

import argparse
import dataclasses
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from tqdm import tqdm

from ngpt.config import SECTIONS, RunConfig, Runtime
from ngpt.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError, raise_at_interrupt
from ngpt.flags import field_docs, notes
from ngpt.machine import wait_without_spinning
from ngpt.presets import PRESETS, resolve
from ngpt.refusals import choices_of, flag_name

if TYPE_CHECKING:
    from ngpt.training.record import RunRecord


class Parser(argparse.ArgumentParser):
    """An argument parser whose error message is one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message as one line and exit with code 2."""
        self.exit(EXIT_BAD_INPUT, f"error: {message} (see --help)\n")


def nonempty_path(text: str) -> Path:
    """Return a path from the command line; an empty text, as of a variable that is not set, is none."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(text)


def build_parser() -> Parser:
    """Return the parser of `train_architectural.py`."""
    parser = Parser(
        description="Train one model. A preset is a whole configuration; every other flag changes one field of it. "
        "The defaults shown are those of the preset tiny.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny", help=field_docs(RunConfig)["preset"])
    parser.add_argument("--seed", type=int, default=0, help=field_docs(RunConfig)["seed"])
    for section, kind in SECTIONS.items():
        add_flags(parser.add_argument_group(section, (kind.__doc__ or "").partition("\n")[0]), kind)
    add_flags(parser.add_argument_group("runtime", "How the run is carried out. Not part of its identity."), Runtime)
    return parser


def add_flags(group: argparse._ArgumentGroup, kind: type) -> None:
    """Add a flag for each field of a configuration dataclass; flags not given are absent from the namespace."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        default = "the run's id" if (kind, field.name) == (Runtime, "name") else _shown(field.default)
        text = f"{field_docs(kind)[field.name]} (default: {default})".replace("%", "%%")
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        hint = hints[field.name]
        choices = choices_of(hint)
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif choices and None in choices:  # the bare flag is the first choice
            options |= {"nargs": "?", "const": choices[0], "metavar": "|".join((*choices[:-1], "none"))}
            options["type"] = _reader(str, optional=True, choices=choices)
        elif choices:
            options["choices"] = choices
        elif field.metadata.get("words"):
            options |= {"nargs": "*", "metavar": "KEY=VALUE"}
        else:
            members = {*(get_args(hint) or (hint,))}
            words = [word for one in members if get_origin(one) is Literal for word in get_args(one)]
            (base,) = {one for one in members if get_origin(one) is not Literal} - {types.NoneType}
            metavar = {int: "N", float: "X", str: "NAME", Path: "DIR"}[base]
            options["type"] = _reader(base, optional=types.NoneType in members, words=words)
            options["metavar"] = "|".join([metavar, *words])
        group.add_argument(flag_name(field.name), **options)


def _shown(value: Any) -> str:
    return {"True": "yes", "False": "no", "None": "none", "": "none"}.get(f"{value}", f"{value}")


def _reader(
    base: Any, *, optional: bool, choices: Sequence[Any] = (), words: Sequence[str] = ()
) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if optional and text == "none":
            return None
        if text in words:
            return text
        value: Any = nonempty_path(text) if base is Path else base(text)
        if base is float and not math.isfinite(value):
            raise ValueError(text)
        if choices and value not in choices:
            names = ", ".join(choice or "none" for choice in choices)
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {names})")
        return value

    read.__name__ = {int: "whole number", float: "number", str: "text", Path: "path"}[base]
    return read


def parse(arguments: list[str] | None = None) -> tuple[RunConfig, Runtime]:
    """Return the configuration that flags describe.

    Unknown flags and malformed values end the process with one line and code 2; refused values raise InputError.
    """
    given = vars(build_parser().parse_args(arguments))
    given |= {name: " ".join(words) for name, words in given.items() if isinstance(words, list)}
    of_runtime = [field.name for field in dataclasses.fields(Runtime) if field.name in given]
    runtime = Runtime(**{name: given.pop(name) for name in of_runtime})
    return resolve(**given), runtime


def main(arguments: list[str] | None = None) -> int:
    """Train with progress on standard error, print a summary and the run's folder, and return the exit code.

    With --dry-run, print what the run would cost instead, and leave no folder.
    """
    config, runtime = parse(arguments)
    if runtime.parallel != "zero1" and "WORLD_SIZE" not in os.environ:
        raise InputError(f"--parallel {runtime.parallel} has no effect in a single process: start it with torchrun")
    wait_without_spinning()
    from ngpt.ranks import process_group  # imported late, so that a wrong flag does not wait for torch
    from ngpt.training.preflight import outlook
    from ngpt.training.trainer import train

    raise_at_interrupt()
    if runtime.dry_run:
        notes_and_cost = [*(f"note: {note}" for note in notes(config))]
        notes_and_cost += outlook(config, device=runtime.device, threads=runtime.threads).lines
        print(*notes_and_cost, sep="\n")
        return 0

    bar: tqdm[NoReturn] | None = None

    def show(step: int, loss: float) -> None:
        nonlocal bar
        if bar is None:  # only once there is something to show
            total = config.train.steps if config.train.time_budget_seconds is None else None
            bar = tqdm(total=total, initial=step - 1, unit="step", file=sys.stderr, leave=False)
        bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        bar.update(step - bar.n)

    with process_group() as ranks:
        for note in notes(config) if ranks.is_first else []:
            print(f"note: {note}", file=sys.stderr)
        try:
            folder, record = train(config, runtime, show if runtime.progress and ranks.is_first else None, ranks)
        finally:
            if bar is not None:
                bar.close()
        if ranks.is_first:
            print(summary(record), folder, sep="\n")
    return {"done": 0, "killed": EXIT_INTERRUPTED}.get(record.status, 1)


def summary(record: "RunRecord") -> str:
    """Return what a run came to, in a few lines for people."""
    how = f"{record.steps} steps, seed {record.seed}, {record.parameters:,} parameters"
    lines = [f"{record.name}: {record.status}, {how}"]
    if record.final_val_loss is not None:
        bpb = "" if record.final_val_bpb is None else f", {record.final_val_bpb:.4f} bits per byte"
        lines += [f"validation: {record.final_val_loss:.4f} nats per token{bpb} ({record.eval_tokens:,} tokens)"]
    if record.tokens_per_second is not None:
        speed = f"{record.tokens_per_second:,.0f} tokens/s, {record.skipped_steps} steps skipped, {record.device}"
        lines += [f"training: {record.train_seconds:.1f} s, {speed}"]
    lines += [f"ranks: {record.engine}"] if record.ranks > 1 else []
    lines += [f"limited by: {', '.join(record.limited_by)} (docs/runs.md, telemetry)"] if record.limited_by else []
    return "\n".join([*lines, *([record.message] if record.message else [])])


def leave(code: int) -> NoReturn:
    """Exit the process with `code`.

    With several ranks, skip Python's own cleanup: a gloo thread may still be about to release a tensor, which needs
    the interpreter, and without one it aborts the process (in one launch out of ten).
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
