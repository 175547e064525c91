"""Forward and backward of `ngpt` beside NVIDIA's public model: `python benchmarks/nvidia_ngpt.py CHECKOUT`.

CHECKOUT is a checkout of github.com/NVIDIA/ngpt; nothing of it is kept here. As published, its model needs a GPU: its
matrices are bfloat16, and attention comes from the package flash_attn. Here its parameters are float32, and PyTorch's
attention takes that package's place. Both models have the same shapes and the same number of parameters. They take
turns, pass by pass, on the same random tokens, and both are eager.
"""

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ngpt.machine import wait_without_spinning

wait_without_spinning()  # as in runs; PyTorch reads it when it is loaded

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import interleaved, matmul_rate, prepare, ratio
from benchmarks.saved import FOLDER, save
from ngpt.config import ModelConfig
from ngpt.cost import hidden_entries
from ngpt.data.tokenizers import BYTES_VOCAB
from ngpt.errors import exit_code_of, require
from ngpt.model import build_model
from ngpt.model.loss import cross_entropy
from ngpt.training import environment

SHAPES = ((3, 128), (4, 256))
"""Layers and width; heads are 32 wide."""

BATCH, CONTEXT = 8, 128
"""Sequences, and tokens in each."""


def attention(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, *, softmax_scale: float, **rest: Any) -> Tensor:
    """Return causal attention (batch, tokens, heads, width of a head) as the package flash_attn does, in float32."""
    q, k, v = (x.float().transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=softmax_scale).transpose(1, 2)


def load(checkout: Path) -> ModuleType:
    """Return the module with NVIDIA's model, with `attention` for flash_attn. Raises InputError if it is not there."""
    path = checkout / "model.py"
    require(path.is_file(), f"{path}: no such file; CHECKOUT must be a checkout of github.com/NVIDIA/ngpt")
    stand_in: Any = ModuleType("flash_attn")
    stand_in.flash_attn_func, stand_in.flash_attn_qkvpacked_func = attention, None
    spec = importlib.util.spec_from_file_location("nvidia_ngpt_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = {name: sys.modules.get(name) for name in ("flash_attn", spec.name)}
    sys.modules |= {"flash_attn": stand_in, spec.name: module}
    try:
        spec.loader.exec_module(module)
    finally:
        for name, old in before.items():
            sys.modules.pop(name) if old is None else sys.modules.update({name: old})
    require(hasattr(module, "GPT") and hasattr(module, "GPTConfig"), f"{path}: has no GPT and GPTConfig")
    return module


def passes(module: ModuleType, layers: int, width: int) -> tuple[dict[str, Callable[[], object]], ModelConfig]:
    """Return a forward and backward pass of each model, NVIDIA's first, and the shapes of ours."""
    shape = ModelConfig(arch="ngpt", n_layer=layers, n_embd=width, n_head=width // 32, seq_len=CONTEXT, alpha=0.05)
    shape = dataclasses.replace(shape, logit_scale_init=1.0)
    ours = build_model(shape, BYTES_VOCAB, seed=0)
    torch.manual_seed(0)
    theirs = module.GPT(module.GPTConfig(
        block_size=CONTEXT, vocab_size=BYTES_VOCAB, n_layer=layers, n_head=width // 32, n_embd=width,
        base_scale=width**-0.5, use_nGPT=1,
    )).float()  # fmt: skip
    counts = [sum(p.numel() for p in model.parameters()) for model in (theirs, ours)]
    require(counts[0] == counts[1], f"the models differ: {counts[0]:,} parameters in NVIDIA's, {counts[1]:,} in ours")
    x, y = torch.randint(BYTES_VOCAB, (2, BATCH, CONTEXT), generator=torch.Generator().manual_seed(1))

    def step(model: torch.nn.Module, loss_of: Callable[[], Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        loss_of().backward()  # type: ignore[no-untyped-call]

    return {
        "NVIDIA": lambda: step(theirs, lambda: theirs(x, y)[1]),
        "ngpt": lambda: step(ours, lambda: cross_entropy(ours(x), y)),
    }, shape


def main(arguments: list[str]) -> int:
    """Time both models at every shape, print a line for each, and save everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=100, help="timed passes of each model (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s, as in campaigns)")
    parser.add_argument("--json", type=Path, help="where to write, instead of benchmarks/results")
    options = parser.parse_args(arguments)
    if options.rounds < 2 or options.threads < 1:
        parser.error("--rounds must be at least 2, and --threads at least 1")
    module, device = load(options.checkout), torch.device("cpu")
    machine = prepare(device, options.threads)
    environment.prepare(device, options.threads)
    rate = matmul_rate(torch.float32, device, threads=options.threads)
    rows = []
    for layers, width in SHAPES:
        functions, shape = passes(module, layers, width)
        seconds = interleaved(functions, repetitions=options.rounds, device=device, warm_up=5)
        products = 6.0 * (hidden_entries(shape) + BYTES_VOCAB * width) + 12.0 * layers * width * CONTEXT
        floor = BATCH * CONTEXT * products / rate
        faster = ratio(seconds["NVIDIA"], seconds["ngpt"])
        row: dict[str, Any] = {
            "layers": layers, "width": width, "tokens": BATCH * CONTEXT, "seconds": seconds,
            "times_faster": dataclasses.asdict(faster),
            "share_of_floor": {name: floor / median(taken) for name, taken in seconds.items()},
        }  # fmt: skip
        shares = ", ".join(f"{name} {share:.0%}" for name, share in row["share_of_floor"].items())
        print(f"{layers} x {width}: ngpt is {faster} times faster; floor, share of the time: {shares}")
        rows.append(row)
    flags = f"--rounds {options.rounds} --threads {options.threads}"
    command = f"python benchmarks/nvidia_ngpt.py <checkout of NVIDIA/ngpt> {flags}"
    content = {"command": command, "measured_on": machine, "rate": rate, "rows": rows}
    save(str((options.json or FOLDER / "nvidia_ngpt_cpu.json").resolve().with_suffix("")), content)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
