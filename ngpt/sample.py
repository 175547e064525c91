"""Text from a finished run: `python -m ngpt.sample RUN --prompt TEXT`."""

if __name__ == "__main__":
    from ngpt.errors import end_at_interrupt

    end_at_interrupt()  # also while modules are imported

import argparse
import codecs
import math
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from ngpt.command import Parser, nonempty_path
from ngpt.errors import InputError, end_with_the_reader, exit_code_of, require
from ngpt.loading import SavedRun, load_run
from ngpt.training.environment import default_threads


def stream(
    run: SavedRun, prompt: str = "", *, tokens: int = 200, temperature: float = 1.0, top_k: int | None = None,
    seed: int = 0,
) -> Iterator[str]:  # fmt: skip
    """Yield the text with which `run` continues `prompt`, up to `tokens` tokens or the end of the document.

    temperature: divides the logits; at 0 the likeliest token is taken. top_k: draw from this many likeliest tokens.
    The model reads the last `seq_len` tokens. Pieces are whole characters; what is not UTF-8 becomes U+FFFD, and a
    character that the last token leaves incomplete is dropped. Raises InputError for numbers out of range and for
    cellular automata.
    """
    require(0 < tokens < 2**63, f"--tokens must be positive: {tokens}")
    require(0 <= temperature < math.inf, f"--temperature must be finite and not negative: {temperature}")
    require(0 <= seed < 2**63, f"--seed must lie in [0, 2**63): {seed}")
    require(top_k is None or top_k > 0, f"--top-k must be positive: {top_k}")
    require(run.tokenizer is not None, f"{run.folder}: a model of cellular automata has no text to sample")
    assert run.tokenizer is not None
    try:
        ids = run.tokenizer.encode([prompt.encode("utf-8")]).tolist()
    except UnicodeEncodeError as error:
        raise InputError("--prompt is not UTF-8") from error
    return _pieces(run, ids, tokens, temperature, top_k, torch.Generator().manual_seed(seed))


def _pieces(
    run: SavedRun, ids: list[int], tokens: int, temperature: float, top_k: int | None, generator: torch.Generator
) -> Iterator[str]:
    assert run.tokenizer is not None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for _ in range(tokens):
        ids = ids[-run.config.model.seq_len :]
        with torch.inference_mode():
            logits_V = run.model(torch.tensor([ids]))[0, -1]
        ids.append(next_token(logits_V, temperature, top_k, generator))
        if ids[-1] == run.tokenizer.end_of_document:
            return
        if piece := decoder.decode(run.tokenizer.decode(ids[-1:])):
            yield piece


def next_token(logits_V: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Draw a token id from logits (V,), or take the likeliest at temperature 0."""
    if temperature == 0:
        return int(logits_V.argmax())
    values_K, ids_K = logits_V.double().topk(min(top_k or len(logits_V), len(logits_V)))
    weights_K = ((values_K - values_K[0]) / temperature).exp()  # the largest is 1, however low the temperature
    return int(ids_K[torch.multinomial(weights_K, 1, generator=generator)])


def build_parser() -> Parser:
    """Return the parser of `python -m ngpt.sample`."""
    parser = Parser(prog="python -m ngpt.sample", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("run", type=nonempty_path, help="folder of a run that kept its weights")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to continue; default: a document's start")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="tokens at most (%(default)s)")
    text = "divides the logits; 0: always the likeliest token (%(default)s)"
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help=text)
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens; default: from all")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed, the same text (%(default)s)")
    return parser


def main(arguments: list[str]) -> int:
    """Print the prompt and its continuation as it comes."""
    given: argparse.Namespace = build_parser().parse_args(arguments)
    run = load_run(given.run)
    torch.set_num_threads(default_threads(run.config, 1))
    pieces = stream(
        run, given.prompt, tokens=given.tokens, temperature=given.temperature, top_k=given.top_k,
        seed=given.seed,
    )  # fmt: skip
    print(given.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    end_with_the_reader()
    sys.exit(exit_code_of(lambda: main(sys.argv[1:]), only_prints=True))
