"""Identity of a run: configuration, data and the code that computes. No torch.

A run's id is a digest of those three and its seed. Device, paths, threads and logging are not part of it. Code is: a
campaign then never mixes runs of different code, and never reports old numbers as new ones. Comments and documentation
do not count.
"""

import ast
import dataclasses
import functools
import hashlib
import json
from pathlib import Path

from ngpt.config import RunConfig
from ngpt.errors import InputError
from ngpt.files import read_json

CODE = (
    "config.py", "sphere.py", "polar.py", "ranks.py", "registry.py", "sources.py", "kernels", "data", "model", "optim",
    "training",
)  # fmt: skip
"""Parts of the package that can change a run's numbers."""


@functools.cache
def code_digest() -> str:
    """Return the SHA-256 of the sources in `CODE` without comments, documentation and formatting."""
    root = Path(__file__).parent
    patterns = (part if part.endswith(".py") else f"{part}/**/*.py" for part in CODE)
    digest = hashlib.sha256()
    for file in (file for pattern in patterns for file in sorted(root.glob(pattern))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                code = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
                node.body = code or [ast.Pass()]  # type: ignore[attr-defined]
        digest.update(f"{file.relative_to(root).as_posix()}\n{ast.unparse(tree)}\n".encode())
    return digest.hexdigest()


def run_digest(config: RunConfig, data_digest: str) -> str:
    """Return the digest of everything but the seed that can change a run's result; equal for the runs of one arm."""
    content = dataclasses.asdict(config)
    del content["seed"], content["preset"], content["data"]["data"], content["data"]["shards"]
    if config.train.init_from is not None:  # the weights count, not their path
        weights = read_json(Path(config.train.init_from) / "record.json").get("weights_sha256", {}).get("final")
        if weights is None:
            raise InputError(f"--init-from {config.train.init_from}: this run did not end with weights")
        content["train"]["init_from"] = weights
    parts = [json.dumps(content, sort_keys=True), data_digest, code_digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run_id(config: RunConfig, data_digest: str) -> str:
    """Return the name of the run's folder, such as `muon-3f9c2a71d0-s0`."""
    return f"{config.optim.optimizer}-{run_digest(config, data_digest)[:10]}-s{config.seed}"
