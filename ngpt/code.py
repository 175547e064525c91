"""The sources that compute, and a digest of them that every version of Python agrees on. No torch."""

import ast
import functools
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

from ngpt.errors import require

CODE = (
    "config.py", "foreign.py", "sphere.py", "polar.py", "ranks.py", "registry.py", "sources.py", "kernels", "data",
    "model", "optim", "rules", "training",
)  # fmt: skip
"""Parts of the package that can change a run's numbers"""

ROOT = Path(__file__).parent


def code_files() -> list[Path]:
    """Return the files in `CODE`, sorted."""
    return [file for part in CODE for file in sorted(ROOT.glob(part if part.endswith(".py") else f"{part}/**/*.py"))]


def _stamps() -> dict[Path, tuple[int, ...]]:
    facts = {file: file.stat() for file in code_files()}
    return {file: (fact.st_mtime_ns, fact.st_size, fact.st_ino) for file, fact in facts.items()}


FIRST_STAMPS = _stamps()
"""State of the files before this process loaded any of them: `ngpt/__init__.py` imports this module first"""


@functools.cache
def code_digest() -> str:
    """Return the SHA-256 of the sources in `CODE` without comments, documentation and formatting.

    Raises InputError if they have changed since this process began to load them: it would be the digest of other code
    than what runs.
    """
    digest = hashlib.sha256()
    for file in code_files():
        digest.update(f"{file.relative_to(ROOT).as_posix()}\n{plain_code(file.read_bytes())}\n".encode())
    require(_stamps() == FIRST_STAMPS, f"the code in {ROOT} has changed since this process started: start it again")
    return digest.hexdigest()


def plain_code(source: bytes) -> str:
    """Return the syntax tree of `source` as text: equal on all versions of Python, and without documentation."""
    return json.dumps(_plain(ast.parse(source)))


def _plain(node: Any) -> Any:
    """Return a syntax tree as lists and strings, without empty fields: of these, newer versions have more."""
    if isinstance(node, list):
        return [_plain(one) for one in node if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.JoinedStr):  # versions cut the text between two replacement fields differently
        values: list[Any] = node.values
        runs = itertools.groupby(values, lambda part: isinstance(part, ast.Constant))
        cut = [["".join(part.value for part in parts)] if text else list(parts) for text, parts in runs]
        fields["values"] = [part for parts in cut for part in parts if part != ""]
    kept = ([name, _plain(value)] for name, value in fields.items() if value is not None and value != [])
    return [type(node).__name__, *kept]
