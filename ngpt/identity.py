"""Identity of a run: configuration, data and the code that computes. No torch.

A run's id is a digest of those three and its seed. Device, paths, threads and logging are not part of it. Code is: a
campaign then never mixes runs of different code, and never reports old numbers as new ones. Comments and documentation
do not count.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from ngpt.code import code_digest
from ngpt.config import RunConfig
from ngpt.errors import require
from ngpt.files import read_json
from ngpt.foreign import is_class, origin_of


def run_digest(config: RunConfig, data_digest: str, initial_weights: str | None = None) -> str:
    """Return the digest of everything but the seed that can change a run's result; equal for the runs of one arm.

    initial_weights: digest of the weights that the run starts from; default: what the record in `init_from` states.
    """
    content = dataclasses.asdict(config)
    del content["seed"], content["preset"], content["data"]["data"], content["data"]["shards"]
    if is_class(config.optim.optimizer):  # the class counts, not its path
        content["optim"]["optimizer"] = origin_of(config.optim.optimizer).identity
    if config.train.init_from is not None:  # the weights count, not their path
        record = Path(config.train.init_from) / "record.json"
        weights = initial_weights or read_json(record).get("weights_sha256", {}).get("final")
        require(weights is not None, f"--init-from {config.train.init_from}: this run did not end with weights")
        content["train"]["init_from"] = weights
    parts = [json.dumps(content, sort_keys=True), data_digest, code_digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run_id(config: RunConfig, data_digest: str) -> str:
    """Return the name of the run's folder, such as `muon-3f9c2a71d0-s0`."""
    name = origin_of(config.optim.optimizer).name if is_class(config.optim.optimizer) else config.optim.optimizer
    return f"{name}-{run_digest(config, data_digest)[:10]}-s{config.seed}"
