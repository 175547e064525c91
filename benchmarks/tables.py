"""The tables of `docs/speed.md`, from the files in `benchmarks/results`."""

from pathlib import Path
from typing import Any

from benchmarks.gpu import CLAIMS, shown
from benchmarks.saved import FOLDER
from ngpt.files import read_json
from ngpt.presets import resolve


def speed_tables() -> str:
    """Return all tables on speed as markdown."""
    on_cpus = [
        campaign_tables(),
        contention_table(),
        compilation_table(),
        *optimizer_tables(),
        *option_tables(),
        *training_tables(),
        *against_tables(),
        *nvidia_tables(),
        *path_tables(),
    ]
    return "\n\n".join([*on_cpus, *kernel_tables(), gpu_table()]) + "\n"


def campaign_tables() -> str:
    """Return the tables on how runs share the cores and on where the time of a run goes."""
    throughput, overhead = (read_json(FOLDER / f"{name}.json") for name in ("campaign_throughput", "trainer_overhead"))
    lines = [
        f"Sharing cores: {_place(throughput)}, medians of {throughput['median_of']} (`{throughput['command']}`).",
        "",
        "| runs at once | threads per run | precision | throughput relative to one run, one thread, float32 |",
        "|---|---|---|---|",
    ]
    for row in throughput["rows"]:
        lines.append(f"| {row['jobs']} | {row['threads']} | {row['dtype']} | {row['ratio']:.2f} |")
    lines += [
        "",
        f"The parts of a run: {_place(overhead)}, medians of {overhead['median_of']} (`{overhead['command']}`).",
        "",
        f"| `tiny` run | training time relative to {next(iter(overhead['rows']))} | optimizer step and projection "
        "| trainer overhead | validation |",
        "|---|---|---|---|---|",
    ]
    for name, row in overhead["rows"].items():
        shares = " | ".join(f"{row[key]:.1%}" for key in ("step_share", "overhead_share", "validation_share"))
        lines.append(f"| {name} | {row['time_ratio']:.2f} | {shares} |")
    return "\n".join(lines)


def _place(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}"


def contention_table() -> str:
    """Return the table on a run beside other work."""
    results = read_json(FOLDER / "contention.json")
    lines = [
        f"A run beside processes that keep a core busy each: time of a step relative to the default with nothing "
        f"beside it. {_place(results)}, medians of {results['median_of']} (`{results['command']}`).",
        "",
        "| model | threads | " + " | ".join(f"{count} beside" for count in results["competitors"]) + " |",
        "|---" * (2 + len(results["competitors"])) + "|",
    ]
    for row in results["rows"]:
        cells = " | ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        lines.append(f"| {row['model']} | {row['arrangement']} | {cells} |")
    return "\n".join(lines)


def compilation_table() -> str:
    """Return the table on what compilation costs a run before its second step."""
    results = read_json(FOLDER / "compilation.json")
    lines = [
        f"What compilation costs a run before its second step, and what it gains: {_place(results)}, 1 thread a run, "
        f"Muon, medians of {results['median_of']} (`{results['command']}`). In a campaign the server's own "
        "compilation, like one of the two rows above it, comes on top, once for all runs.",
        "",
        "| preset | steps of a run | how it begins | first step, in eager steps | later steps | repaid after |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        repaid = None if row["repaid_after"] is None else max(1, round(row["repaid_after"]))
        after = "" if repaid is None else f"{repaid:,} step{'s' * (repaid > 1)}"
        begins = f"| `{row['preset']}` | {row['steps_of_a_run']:,} | {row['start']}"
        lines.append(f"{begins} | {row['first_step']:,.1f} | {row['step']:.2f} | {after} |")
    return "\n".join(lines)


def interval(ratio: dict[str, float]) -> str:
    """Return the median of a ratio with its 95% interval, as `benchmarks.measure.Ratio` is saved."""
    return "{median:.2f} [{low:.2f}, {high:.2f}]".format(**ratio)


def optimizer_tables() -> list[str]:
    """Return one table per file of results on one optimizer step against peers: CPU, by threads, and GPU."""
    tables = []
    for path in sorted(FOLDER.glob("optimizer_step_*.json")):
        results = read_json(path)
        machine, rates = results["measured_on"], results["rates"]
        reached = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates["flops_per_second"].items())
        widths = list(dict.fromkeys(row["width"] for row in results["rows"]))
        rows = {(row["contender"], row["width"]): row for row in results["rows"]}
        lines = [
            f"One optimizer step: speedup over {results['reference']}, and the floor as a share of the time. "
            f"{machine['device']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}, {reached}; "
            f"{rounds_text(results['options']['steps'], 'steps')} (`{results['command']}`).",
            "",
            "| optimizer step | " + " | ".join(f"{width} wide" for width in widths) + " |",
            "|---" * (1 + len(widths)) + "|",
        ]
        for contender in results["mathematics"]:
            cells = []
            for width in widths:
                row = rows[contender, width]
                gain = interval(row["times_faster"])
                cells.append(f"{gain}, {row['share_of_floor']:.0%}")
            lines.append(f"| {contender} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return tables


def option_tables() -> list[str]:
    """Return one table per file of results on what an option costs beside the linear step."""
    tables = []
    for path in sorted(FOLDER.glob("step_options_cpu_*.json")):
        results = read_json(path)
        machine, rows = results["measured_on"], results["rows"]
        widths = list(dict.fromkeys(row["width"] for row in rows))
        found = {(row["option"], row["width"]): row["times_linear"] for row in rows}
        lines = [
            f"An option's step: time relative to the linear step. {machine['device']}, {machine['threads']} "
            f"thread{'s' * (machine['threads'] > 1)}, polar products in {results['dtype']}; medians of "
            f"{results['median_of']} interleaved steps (`{results['command']}`).",
            "",
            "| option | " + " | ".join(f"{width} wide" for width in widths) + " |",
            "|---" * (1 + len(widths)) + "|",
        ]
        for option in dict.fromkeys(row["option"] for row in rows):
            cells = (interval(found[option, width]) for width in widths)
            lines.append(f"| {option} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return tables


def training_tables() -> list[str]:
    """Return one table per device on the throughput of each arrangement of a training step."""
    tables = []
    for path in sorted(FOLDER.glob("training_throughput_*.json")):
        results = read_json(path)
        machine, rows = results["measured_on"], results["rows"]
        lines = [
            f"Training steps of {rows[0]['tokens_a_step']:,} tokens, "
            f"{'one arrangement after another' if 'cuda' in path.stem else 'interleaved'}: {machine['device']}, "
            f"{machine['threads']} thread{'s' * (machine['threads'] > 1)} (`{results['command']}`).",
            "",
            "| arrangement | time per step relative to the first row | floor, share of the time | forward and backward "
            "| optimizers | projection |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            slower = interval(row["times_slower_than_first"])
            shares = " | ".join(f"{share:.1%}" for share in row["share_of_time"].values())
            lines.append(f"| {row['arrangement']} | {slower} | {row['share_of_floor']:.0%} | {shares} |")
        tables.append("\n".join(lines))
        if "kernels" in rows[0]:
            tables.append(profile_table(rows[0]))
    return tables


LISTED = 0.02
"""Least share of a step's time with which a kernel is in the table"""


def profile_table(row: dict[str, Any]) -> str:
    """Return the table of the kernels that take longest in one arrangement of a training step."""
    lines = [
        f"Where the time of *{row['arrangement']}* goes: kernels that take {LISTED:.0%} of a step or more.",
        "",
        "| kernel | calls per step | share of the time |",
        "|---|---|---|",
    ]
    for kernel in row["kernels"]:
        if kernel["share"] >= LISTED:
            lines.append(f"| `{kernel['name']:.80}` | {kernel['calls']:.1f} | {kernel['share']:.1%} |")
    return "\n".join(lines)


def against_tables() -> list[str]:
    """Return one table per device on training steps of this code relative to an earlier one's."""
    tables = []
    for path in sorted(FOLDER.glob("training_against_*.json")):
        results = read_json(path)
        machine = results["measured_on"]
        same = all(row.get("same_model", True) for row in results["rows"])
        scales = "" if same else " The logit scale started at another value there, which changes no operation."
        lines = [
            f"Training steps, this code against an earlier one's, {machine['threads']} thread: {machine['device']} "
            f"(`{results['command']}`).{scales}",
            "",
            "| preset | step | tokens per second relative to before | floor, share of the time | a run's steps |",
            "|---|---|---|---|---|",
        ]
        for row in results["rows"]:
            faster = interval(row["speedup"])
            step = row["rule"] + ", compiled" * row.get("compiled", False)
            train = resolve(row["preset"]).train
            seconds = train.steps * row["tokens_a_step"] / row["tokens_per_second"]
            lines.append(f"| `{row['preset']}` | {step} | {faster} | {row['share_of_floor']:.0%} | {seconds:,.0f} s |")
        tables.append("\n".join(lines))
    return tables


def nvidia_tables() -> list[str]:
    """Return one table per device on the paper's model beside NVIDIA's."""
    tables = []
    for path in sorted(FOLDER.glob("nvidia_ngpt_*.json")):
        results = read_json(path)
        machine = results["measured_on"]
        lines = [
            f"Forward and backward of `ngpt` and of NVIDIA's public model, {machine['threads']} thread"
            f"{'s' * (machine['threads'] > 1)}, float32, eager, interleaved: {machine['device']} "
            f"(`{results['command']}`). NVIDIA's is made for a GPU; here it has PyTorch's attention.",
            "",
            "| layers x width, tokens a step | speedup over NVIDIA's | floor, share of the time | NVIDIA's |",
            "|---|---|---|---|",
        ]
        for row in results["rows"]:
            theirs, ours = (f"{row['share_of_floor'][name]:.0%}" for name in ("NVIDIA", "ngpt"))
            size = f"{row['layers']} x {row['width']}, {row['tokens']:,}"
            lines.append(f"| {size} | {interval(row['times_faster'])} | {ours} | {theirs} |")
        tables.append("\n".join(lines))
    return tables


def path_tables() -> list[str]:
    """Return one table per device on whether the faster paths end at the same loss as the plain one."""
    tables = []
    for path in sorted(FOLDER.glob("paths_*.json")):
        results = read_json(path)
        lines = [
            f"Final loss of one path minus another's on {results['seeds']} seeds: {results['measured_on']['device']} "
            f"(`{results['command']}`). A difference within {results['matters']} does not matter.",
            "",
            f"| path | minus | difference, nats per token | within {results['matters']} | runs with identical bits |",
            "|---|---|---|---|---|",
        ]
        for row in results["rows"]:
            interval = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]".replace("-", "−")
            answer = "yes" if row["no_effect_that_matters"] else "**no**"
            same = f"{row['same_bits']} of {results['seeds']}"
            lines.append(f"| {row['path']} | {row['against']} | {interval} | {answer} | {same} |")
        tables.append("\n".join(lines))
    return tables


def kernel_tables() -> list[str]:
    """Return one table per GPU on each kernel, in the tiling that training uses, beside its alternative."""
    tables = []
    for path in sorted(FOLDER.glob("kernels_cuda*.json")):
        results = read_json(path)
        lines = [
            f"Triton kernels: {results['measured_on']['device']}, {results['flops_per_second'] / 1e12:,.0f} TFLOP/s in "
            f"bfloat16, {results['bytes_per_second'] / 1e9:,.0f} GB/s; "
            f"{rounds_text(results['rounds'], 'rounds of ten calls')} (`{results['command']}`). Errors are relative to "
            "the norm of the result in float64; they are those of float32, or of bfloat16 where the result has that "
            "precision.",
            "",
            "| kernel | input | tiling | speedup | over | in training | floor, share of the time | alternative's "
            "| error | alternative's |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in results["rows"]:
            alternative, used = row["alternative"], row["in_training"]
            name = row["tiling"] if row["tiling"] in row["times_faster"] else "kernel"
            shares = " | ".join(f"{row['share_of_floor'][one]:.0%}" for one in (name, alternative))
            errors = " | ".join(f"{row['errors'][one]:.1e}" for one in (name, alternative))
            size, gain = " x ".join(f"{n:,}" for n in row["shape"]), interval(row["times_faster"][name])
            kernel, tiling = row["kernel"], row["tiling"]
            lines.append(f"| `{kernel}` | {size} | {tiling} | {gain} | {alternative} | {used} | {shares} | {errors} |")
        tables.append("\n".join(lines))
    return tables


def rounds_text(rounds: int, what: str) -> str:
    """Return how often something was timed, and what the brackets hold where that is too seldom for an interval."""
    return f"medians of {rounds} interleaved {what}" + " (brackets hold both)" * (rounds == 2)


def gpu_table() -> str:
    """Return the table of what `benchmarks/gpu.py` measured, or a sentence saying that no GPU has been measured."""
    paths = {part: FOLDER / f"{part}_cuda.json" for part in dict.fromkeys(claim.part for claim in CLAIMS)}
    results = {part: read_json(path) for part, path in paths.items() if path.exists()}
    if not results:
        return (
            "No GPU has been measured yet. The GPU code is compiled ahead of time and tested in an interpreter and on "
            "PyTorch's meta device; it has never run on a GPU. `python benchmarks/gpu.py` measures one in eight "
            "minutes."
        )
    devices = " and ".join(dict.fromkeys(part["measured_on"]["device"] for part in results.values()))
    lines = [
        f"Goals and measurements, by the parts of `python benchmarks/gpu.py`: {devices}.",
        "",
        "| goal | target | measured | what limits it |",
        "|---|---|---|---|",
    ]
    for claim in CLAIMS:
        figure, limit = claim.reached(results[claim.part]) if claim.part in results else (None, "not measured")
        target = f"{'at most' if claim.at_most else 'at least'} {claim.target:,g}"
        lines.append(f"| {claim.what} | {target} | {'—' if figure is None else shown(figure)} | {limit} |")
    return "\n".join(lines)


def batch_tables(folder: Path = FOLDER) -> str:
    """Return the tables of each preset's batch size, throughput beside loss; a sentence if none was measured."""
    tables = [table for path in sorted(folder.glob("batch_size_*.json")) for table in _batch_tables(read_json(path))]
    return "\n\n".join(tables or ["No preset's batch size has been measured yet."]) + "\n"


def _batch_tables(results: dict[str, Any]) -> list[str]:
    tables = []
    if rows := results.get("throughput"):
        contexts = sorted({row["seq_len"] for row in rows})
        rates = {(row["batch_size"], row["seq_len"]): row["tokens_per_second"] for row in rows}
        machine = results["measured_on"]
        lines = [
            f"`{results['preset']}`, tokens a second, {results['optimizer']}: {machine['device']}, "
            f"{machine['threads']} thread{'s' * (machine['threads'] > 1)} (`{results['command']}`).",
            "",
            "| sequences a step | " + " | ".join(f"{context} tokens each" for context in contexts) + " |",
            "|---" * (1 + len(contexts)) + "|",
        ]
        for size in sorted({row["batch_size"] for row in rows}):
            lines.append(f"| {size} | " + " | ".join(f"{rates[size, context]:,.0f}" for context in contexts) + " |")
        tables.append("\n".join(lines))
    if loss := results.get("loss"):
        lines = [
            f"`{results['preset']}`, final loss after {loss['tokens']:,} tokens in sequences of {loss['seq_len']}, "
            f"{results['optimizer']}, {loss['schedule']} schedule, means of {loss['seeds']} seeds at the best rate of "
            f"each batch. The largest batch within {loss['tolerated']} nats of the best is "
            f"**{loss['largest_tolerated']}** (`{results['command']}`).",
            "",
            "| sequences a step | best rate | loss, nats per token | above the best |",
            "|---|---|---|---|",
        ]
        for row in loss["rows"]:
            if row["loss"] is None:
                lines.append(f"| {row['batch_size']} | every one diverged | | |")
            else:
                rate = f"{row['lr']:g}" + ", the end of the grid" * row["at_edge"]
                lines.append(f"| {row['batch_size']} | {rate} | {row['loss']:.4f} | {row['above_best']:.4f} |")
        tables.append("\n".join(lines))
    return tables
