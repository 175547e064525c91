"""The one exception meant for users to read, how a command ends on it, and streams that do not end a command."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class InputError(Exception):
    """Something outside the program is wrong (a flag, a file, the machine). Its message is one clear line."""


def require(condition: bool, message: str) -> None:
    """Raise InputError with `message` unless `condition` holds."""
    if not condition:
        raise InputError(message)


def first_line(error: Exception) -> str:
    """Return the first line of another library's error message, or the error's type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def end_at_interrupt() -> None:
    """Let Ctrl-C end the process at once, in a line: one that comes while modules are imported may be lost else."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: object) -> None:
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)


def raise_at_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, once all is imported."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_with_the_reader() -> None:
    """Let a command that does nothing but print end quietly when nobody reads on."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@contextmanager
def as_input_error(message: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of the given kinds inside the block into an InputError: `message`, and the error's first line."""
    try:
        yield
    except kinds as error:
        raise InputError(f"{message}: {first_line(error)}") from error


class LastingStream:
    """A text stream that loses what it cannot write: nobody reads it any more, or its disk is full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        """why something could not be written, if anything could not"""
        if hasattr(stream, "reconfigure"):  # characters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write as a text file does; what fails goes to the null device, like all that follows."""
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush as a text file does."""
        self._attempt(self._stream.flush)

    def _attempt(self, call: Callable[..., Any], *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:
            self.lost = self.lost or error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_streams() -> Iterator[LastingStream]:
    """Let no failure to print end the block, and yield standard output; closed streams become the null device."""
    for number in range(3):  # a file that is opened later must not take the number of a closed one
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # nor in the processes that this one starts
    out, err = (LastingStream(stream or open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):  # type: ignore[type-var]
        try:
            yield out
        finally:
            out.flush()
            err.flush()


def exit_code_of(command: Callable[[], int], *, only_prints: bool = False) -> int:
    """Run `command` and return its exit code; InputError and OSError become one line on standard error and code 2.

    A command does not fail because what it prints cannot be printed, unless printing is all that it does.
    """
    with lasting_streams() as out:
        try:
            code = command()
            out.flush()
            if only_prints and out.lost is not None:
                raise InputError(f"standard output: {out.lost.strerror}")
            return code
        except InputError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_BAD_INPUT
