"""Made-up data of campaigns that tune nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ngpt.campaign.definition import Campaign, Method

SEEDS = 5


def collected(
    campaign: Campaign, truth: Callable[[Method], float], *, noise: float = 0.003,
    telemetry: Callable[[Method], dict[str, list[float]]] = lambda method: {},
) -> dict[str, Any]:  # fmt: skip
    """Return collected data of a campaign: losses are the truth, an effect of the seed, and noise."""
    draw, rows = np.random.default_rng(3), []
    effects = draw.normal(scale=0.1, size=SEEDS)
    for seed in range(SEEDS):
        for method in campaign.methods:
            row = {
                "stage": "comparison", "method": method.name, "lr": method.lrs[0], "aux_lr": 0.005, "seed": seed,
                "run_id": f"{method.name}-{seed}", "status": "done", "steps": 8,
                "telemetry": {"step": [], **telemetry(method)}, "tokens_per_second": 1.0, "skipped_steps": 0,
                "final_sha256": f"{method.name}{seed}",
                "final_val_loss": truth(method) + effects[seed] + noise * draw.normal(),
            }  # fmt: skip
            rows.append(row)
    environment = {"device": "cpu", "threads": 1, "commit": "abc", "python": "3", "torch": "2", "numpy": "2"}
    return {
        "campaign": campaign.name, "preset": campaign.preset, "data": "text.txt", "tokenizer": "bytes",
        "data_digest": "d" * 64, "code_digest": "c" * 64, "command": f"python runners/{campaign.name}.py", "jobs": 2,
        "planned_runs": len(rows), "tuning_seeds": SEEDS, "comparison_seeds": SEEDS, "dates": ["2026-01-31"],
        "model": {"layers": 1, "width": 16, "context": 16, "arch": "gated-ngpt"}, "parameters": 10, "eval_tokens": 64,
        "training": {"steps": 8, "batch": 2, "dtype": "float32", "schedule": "linear", "aux_lr": 0.005,
                     "decay_share": 1.0, "projection_every": [7], "grad_clip": None},
        "definition": campaign.digest, "environments": [environment | {"runs": len(rows)}],
        "commands": {f"{r['method']}|{r['lr']}|{r['aux_lr']}|{r['seed']}": "--flag" for r in rows}, "runs": rows,
    }  # fmt: skip
