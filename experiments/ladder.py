"""The table of the ladder of presets, from the presets themselves. No torch."""

from ngpt.cost import hidden_entries, parameter_count, pass_operations, polar_operations
from ngpt.data.tokenizers import BYTES_VOCAB, GPT2_VOCAB
from ngpt.presets import RUNGS, resolve

LADDER = ("tiny", *RUNGS, "155m")
"""The rungs, and for comparison the quick look below them and the size above them."""


def ladder_table() -> str:
    """Return shape, parameters, tokens and operations of a Muon run at each preset as markdown."""
    lines = [
        "| preset | layers x width, heads | alpha | parameters, non-embedding | in all | steps x sequences x context "
        "| tokens | tokens per non-embedding parameter | operations of a run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in LADDER:
        config = resolve(name, optimizer="muon")
        model, train = config.model, config.train
        vocab_size = GPT2_VOCAB if config.data.tokenizer == "gpt2" else BYTES_VOCAB
        hidden, tokens = hidden_entries(model), train.steps * train.batch_size * model.seq_len
        operations = train.steps * (pass_operations(config, vocab_size) + polar_operations(config))
        cells = [
            f"`{name}`", f"{model.n_layer} x {model.n_embd}, {model.n_head}", f"{model.alpha:.4g}", f"{hidden:,}",
            f"{parameter_count(model, vocab_size):,}", f"{train.steps:,} x {train.batch_size} x {model.seq_len}",
            f"{tokens:,}", f"{tokens / hidden:.2g}", f"{operations:.2g}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
