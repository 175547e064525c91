"""Training steps of another checkout's code beside this one's: `training_throughput.py --against CHECKOUT`.

Each checkout has a process of its own, and they take turns. A process runs `python benchmarks/checkouts.py` in its
checkout and imports that checkout's code. It reads lines of JSON from standard input: the fields of a configuration,
then numbers of steps; it answers each with a line.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parents[1]

if __name__ != "__main__":  # a worker imports the code of its own checkout, later
    from ngpt.errors import require

Fields = dict[str, Any]
"""Configuration fields; an older checkout leaves out those it does not have"""


class Worker:
    """A model in training in a process of its own, with the code of a checkout."""

    def __init__(self, checkout: Path, fields: Fields, vocabulary: int, threads: int) -> None:
        """Start the process; it takes a few steps and waits."""
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, __file__], cwd=checkout, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.losses: list[float] = self._ask({"fields": fields, "vocabulary": vocabulary, "threads": threads})

    def seconds(self, steps: int) -> list[float]:
        """Take `steps` steps; return the seconds of each."""
        answer: list[float] = self._ask(steps)
        return answer

    def _ask(self, question: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of a checkout has ended with exit code {self.process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.communicate()


def compare(
    before: Path, fields: Fields, vocabulary: int, *, compiled: bool, threads: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of a step of the code in `before` and of that "after", in this checkout, round by round.

    A round is about a quarter of a second of steps of each, and gives their median. `compiled` is about this checkout's
    steps alone. Raises InputError if the checkouts do not train the same model.
    """
    ours = fields | {"compile": compiled}
    with Worker(before, fields, vocabulary, threads) as old, Worker(HERE, ours, vocabulary, threads) as new:
        require_same_losses(old.losses, new.losses)
        steps = max(2, round(0.25 / median(new.seconds(5))))
        seconds: dict[str, list[float]] = {"before": [], "after": []}
        for number in range(rounds):
            pair = [("before", old), ("after", new)]
            for name, worker in pair[:: -1 if number % 2 else 1]:
                seconds[name].append(median(worker.seconds(steps)))
        return seconds


def require_same_losses(before: list[float], after: list[float]) -> None:
    """Raise InputError unless the first three losses agree to 1e-4: the same model on the same batches."""
    same = all(abs(one - other) < 1e-4 for one, other in zip(before, after, strict=True))
    require(same, f"the checkouts train different models: their first losses are {before} and {after}")


def serve() -> None:
    """Answer questions until standard input ends."""
    sys.path[0] = os.getcwd()  # instead of this file's folder: the checkout's own code
    import torch

    from benchmarks.training_throughput import Arrangement
    from ngpt.config import flatten
    from ngpt.presets import resolve
    from ngpt.training import environment

    asked = json.loads(sys.stdin.readline())
    device = torch.device("cpu")
    environment.prepare(device, asked["threads"])
    fields = {name: value for name, value in asked["fields"].items() if name in flatten(resolve("tiny"))}
    made = Arrangement(resolve("tiny", **fields), asked["vocabulary"], device, graphs=False)
    answer(made.losses)
    for line in sys.stdin:
        answer([sum(made.step().values()) for _ in range(json.loads(line))])


def answer(content: Any) -> None:
    """Print one line."""
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    serve()
