"""The one exception a user is meant to read, and how a command ends on it."""

import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class InputError(Exception):
    """Something outside the program is wrong (a flag, a file, the machine). Its text is one clear line."""


def first_line(error: Exception) -> str:
    """The first line of a foreign error's text, or its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def exit_code_of(command: Callable[[], int]) -> int:
    """Run `command`; an InputError, or the system refusing a file, becomes one line on standard error and code 2."""
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
