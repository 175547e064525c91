"""README's tables on speed, from the files in `benchmarks/results`."""

from benchmarks.gpu import CLAIMS
from benchmarks.saved import FOLDER
from ngpt.files import read_json


def readme_tables() -> str:
    """The tables of README's section on speed, from the files of results."""
    return "\n\n".join([campaign_tables(), *optimizer_tables(), *training_tables(), *path_tables(), gpu_table()]) + "\n"


def campaign_tables() -> str:
    """How runs share the cores, and what a run's time goes into."""
    throughput, overhead = (read_json(FOLDER / f"{name}.json") for name in ("campaign_throughput", "trainer_overhead"))
    machine = throughput["machine"]
    lines = [
        f"Measured on {machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"by `{throughput['command']}` and `{overhead['command']}`, medians of {throughput['median_of']}:",
        "",
        "| runs at once | threads a run | precision | throughput against one run, one thread, float32 |",
        "|---|---|---|---|",
    ]
    for row in throughput["rows"]:
        lines.append(f"| {row['jobs']} | {row['threads']} | {row['dtype']} | {row['ratio']:.2f} |")
    lines += [
        "",
        f"| `tiny` run | training time against {next(iter(overhead['rows']))} | optimizer step and projection "
        "| trainer's overhead | validation's share | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in overhead["rows"].items():
        shares = " | ".join(f"{row[key]:.1%}" for key in ("step_share", "overhead_share", "validation_share"))
        lines.append(f"| {name} | {row['time_ratio']:.2f} | {shares} | {row['peak_memory_mb']:.0f} MB |")
    return "\n".join(lines)


def optimizer_tables() -> list[str]:
    """One optimizer step against peers, a table for each file: CPU, by threads, and GPU."""
    tables = []
    for path in sorted(FOLDER.glob("optimizer_step_*.json")):
        results = read_json(path)
        machine, rates = results["measured_on"], results["rates"]
        reached = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates["flops_per_second"].items())
        widths = list(dict.fromkeys(row["width"] for row in results["rows"]))
        rows = {(row["contender"], row["width"]): row for row in results["rows"]}
        lines = [
            f"Times faster than {results['reference']}, medians of {results['options']['steps']} steps in turn, with "
            f"the share of the machine's floor, on {machine['device']}, {machine['threads']} "
            f"thread{'s' * (machine['threads'] > 1)}, {reached}, by `{results['command']}`:",
            "",
            "| optimizer step | " + " | ".join(f"{width} wide" for width in widths) + " |",
            "|---" * (1 + len(widths)) + "|",
        ]
        for contender in results["mathematics"]:
            cells = []
            for width in widths:
                row = rows[contender, width]
                gain = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["times_faster"])
                cells.append(f"{gain}, {row['share_of_floor']:.0%}")
            lines.append(f"| {contender} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return tables


def training_tables() -> list[str]:
    """Throughput of the arrangements of a step, a table for each device."""
    tables = []
    for path in sorted(FOLDER.glob("training_throughput_*.json")):
        results = read_json(path)
        machine, rows = results["measured_on"], results["rows"]
        lines = [
            f"Training steps in turn on {machine['device']}, {rows[0]['tokens_a_step']:,} tokens each, by "
            f"`{results['command']}`:",
            "",
            "| arrangement | time a step against the first | share of the floor | gradients | move | projection |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            slower = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**row["times_slower_than_first"])
            shares = " | ".join(f"{share:.1%}" for share in row["share_of_time"].values())
            lines.append(f"| {row['arrangement']} | {slower} | {row['share_of_floor']:.0%} | {shares} |")
        tables.append("\n".join(lines))
    return tables


def path_tables() -> list[str]:
    """Whether the faster paths end where the plain one does, a table for each device."""
    tables = []
    for path in sorted(FOLDER.glob("paths_*.json")):
        results = read_json(path)
        lines = [
            f"Final loss of a path against another on {results['seeds']} seeds, on {results['measured_on']['device']}, "
            f"by `{results['command']}`; an effect within {results['matters']} does not matter:",
            "",
            "| path | against | difference, nats per token | within | runs with the same bits |",
            "|---|---|---|---|---|",
        ]
        for row in results["rows"]:
            interval = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]".replace("-", "−")
            answer = "yes" if row["no_effect_that_matters"] else "**no**"
            same = f"{row['same_bits']} of {results['seeds']}"
            lines.append(f"| {row['path']} | {row['against']} | {interval} | {answer} | {same} |")
        tables.append("\n".join(lines))
    return tables


def gpu_table() -> str:
    """What `benchmarks/gpu.py` found, or that it has not been asked."""
    paths = {part: FOLDER / f"{part}_cuda.json" for part in dict.fromkeys(claim.part for claim in CLAIMS)}
    results = {part: read_json(path) for part, path in paths.items() if path.exists()}
    if not results:
        return (
            "No GPU has been measured yet: what is said here of GPUs is compiled ahead of time, tested in an "
            "interpreter and on a device without values, and has never run on one. `python benchmarks/gpu.py` measures "
            "one in eight minutes."
        )
    machine = next(iter(results.values()))["measured_on"]
    lines = [
        f"Measured on {machine['device']} by `python benchmarks/gpu.py`:",
        "",
        "| claim | target | reached | what limits it |",
        "|---|---|---|---|",
    ]
    for claim in CLAIMS:
        figure, limit = claim.reached(results[claim.part]) if claim.part in results else (None, "not measured")
        target = f"{'at most' if claim.at_most else 'at least'} {claim.target:,g}"
        lines.append(f"| {claim.what} | {target} | {'—' if figure is None else f'{figure:,.4g}'} | {limit} |")
    return "\n".join(lines)
