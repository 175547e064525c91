"""The one exception meant for users to read, and how a command ends on it."""

import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def set_up_output() -> None:
    """Let standard output end a command quietly when it is closed, and show a character that it does not know as ?."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def as_input_error(message: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of the given kinds inside the block into an InputError: `message`, and the error's first line."""
    try:
        yield
    except kinds as error:
        raise InputError(f"{message}: {first_line(error)}") from error


def exit_code_of(command: Callable[[], int]) -> int:
    """Run `command` and return its exit code; InputError and OSError become one line on standard error and code 2."""
    try:
        return command()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
    return EXIT_BAD_INPUT
