"""The trainer: the only file that knows data, model, optimizers, evaluation, telemetry, checkpoint and record."""

import dataclasses
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ngpt.config import RunConfig, Runtime
from ngpt.data.batches import Batches
from ngpt.data.corpus import Corpus, load_corpus
from ngpt.errors import InputError
from ngpt.files import locked, write_json
from ngpt.identity import run_digest, run_id
from ngpt.machine import core_count
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.training import environment
from ngpt.training.checkpoint import pack, read_tensors, tensors_sha256, unpack, write_tensors
from ngpt.training.evaluation import Evaluator, loss_of
from ngpt.training.metrics import MetricsFile
from ngpt.training.record import RunRecord, read_record
from ngpt.training.telemetry import Telemetry

Progress = Callable[[int, float], None]
"""Called after each step with the number of steps made and the training loss."""

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"


class RunBusyError(InputError):
    """Another process holds the run's lock."""


def train(config: RunConfig, runtime: Runtime, progress: Progress | None = None) -> tuple[Path, RunRecord]:
    """Carry out one run in its folder under `runtime.out` and return the folder and the final record.

    Raises InputError on anything wrong with the input; any other exception is recorded as `failed` and raised.
    An earlier run of the same id is set aside under another name. With `runtime.resume` it is continued from its
    checkpoint, or from its start if it was killed before the first one, and left as it is if it ended by itself.
    """
    device = environment.choose_device(runtime.device)
    corpus = load_corpus(config.data)
    for split, tokens in (("training", corpus.train), ("validation", corpus.val)):
        if min(len(tokens), corpus.record or len(tokens)) <= config.model.seq_len:
            whole = "" if corpus.record is None else f" in sequences of {corpus.record}"
            raise InputError(
                f"--data {config.data.data}: {len(tokens)} {split} tokens{whole} are not one window of --seq-len"
            )
    if corpus.context > config.model.seq_len:
        raise InputError(f"--data {config.data.data}: --seq-len must reach beyond the first {corpus.context} tokens")
    identity = run_id(config, corpus.digest)
    folder = runtime.out / identity
    with locked(runtime.out / ".locks" / identity) as mine:
        if not mine:
            raise RunBusyError(f"{folder}: another process is working on this run")
        if (folder / "record.json").exists():
            earlier = read_record(folder)
            if runtime.resume and earlier.status in ("done", "diverged"):
                return folder, earlier
            if not runtime.resume or (earlier.status == "failed" and not (folder / CHECKPOINT).exists()):
                _set_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*"):  # temporary files of a killed process: nobody else is here
            leftover.unlink()
        return folder, Run(config, runtime, corpus, device, folder).carry_out(progress)


def _set_aside(folder: Path) -> None:
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(kept)
    print(f"note: an earlier run of the same id is kept as {kept}", file=sys.stderr)


class Run:
    """One run in progress: its parts, its counters, and the loop."""

    def __init__(self, config: RunConfig, runtime: Runtime, corpus: Corpus, device: torch.device, folder: Path) -> None:
        self.config, self.runtime, self.corpus, self.device, self.folder = config, runtime, corpus, device, folder
        self.skipped_in_a_row = 0
        self.checkpoint = (
            read_tensors(folder / CHECKPOINT) if runtime.resume and (folder / CHECKPOINT).exists() else None
        )
        threads = runtime.threads or core_count()
        if self.checkpoint is not None and self.checkpoint[1].get("record", {}).get("run_id") != folder.name:
            raise InputError(f"{folder / CHECKPOINT}: the checkpoint of another run")
        if self.checkpoint is not None:  # another number of threads would add in another order
            threads = self.checkpoint[1]["record"]["threads"]
        environment.prepare(device, threads)
        self.record = RunRecord(
            run_id=folder.name,
            digest=run_digest(config, corpus.digest),
            name=runtime.name or folder.name,
            status="running",
            seed=config.seed,
            config=dataclasses.asdict(config),
            versions=environment.versions(),
            device=environment.device_name(device),
            threads=threads,
            commit=environment.commit(),
            data_name=corpus.name,
            data_digest=corpus.digest,
        )

    def carry_out(self, progress: Progress | None) -> RunRecord:
        """Build or resume, train, validate, and leave a record whatever happens."""
        write_json(self.folder / "config.json", dataclasses.asdict(self.config))
        self.record.write(self.folder)
        try:
            self._build()
            self._loop(progress)
        except BaseException as error:
            self.record.status = "killed" if isinstance(error, KeyboardInterrupt) else "failed"
            self.record.message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise
        finally:
            self.record.peak_memory_bytes = environment.peak_memory_bytes(self.device)
            if self.record.train_seconds:
                done = self.record.steps * self.config.train.batch_size * self.config.model.seq_len
                self.record.tokens_per_second = done / self.record.train_seconds
            if self.record.status in ("done", "diverged"):
                self.record.finished = datetime.now(UTC).isoformat(timespec="seconds")
            self.record.write(self.folder)
        if self.record.status in ("done", "diverged"):
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return self.record

    # --- parts -------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        config, device = self.config, self.device
        self.model = build_model(config.model, self.corpus.vocab_size, seed=config.seed).to(device)
        self.parameters = list(self.model.parameters())
        self.specs = parameter_specs(self.model)
        self.optimizers = build_optimizers(self.model, config)
        self.telemetry = Telemetry(self.model, self.specs, self.optimizers.projection)
        windows = self.corpus.windows(self.corpus.train, config.model.seq_len)
        self.batches = Batches(windows, batch_size=config.train.batch_size, seed=config.seed)
        self.evaluator = Evaluator(
            self.corpus,
            eval_tokens=config.train.eval_tokens,
            seq_len=config.model.seq_len,
            device=device,
        )
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.train.dtype == "bfloat16")
        self.record.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.record.eval_tokens = self.evaluator.tokens
        if self.checkpoint is not None:
            self._restore(*self.checkpoint)
            self.checkpoint = None
        elif config.train.init_from is not None:
            moved = transfer(Path(config.train.init_from), self.model)
            self.optimizers.projection.start()
            if self.runtime.progress:
                print(f"transferred from {config.train.init_from}: {moved}", file=sys.stderr)

    def _restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        path = self.folder / CHECKPOINT
        kept = state["record"]
        unpack(path, tensors, self.model, self.optimizers.all)
        for name in ("steps", "train_seconds", "eval_seconds", "skipped_steps", "weights_sha256"):
            setattr(self.record, name, kept[name])
        self.skipped_in_a_row = state["skipped_in_a_row"]
        drift = {Role(role): torch.tensor(value) for role, value in state["seen_drift"].items()}
        self.optimizers.projection.seen_drift = drift

    def _save(self) -> None:
        drift = self.optimizers.projection.seen_drift
        state = {
            "record": dataclasses.asdict(self.record),
            "skipped_in_a_row": self.skipped_in_a_row,
            "seen_drift": {role: value.item() for role, value in drift.items()},
        }
        write_tensors(self.folder / CHECKPOINT, pack(self.model, self.optimizers.all), state)
        self.record.write(self.folder)

    # --- loop --------------------------------------------------------------------------------------------------------

    def _share_done(self) -> float:
        """Share of the run that is done, in [0, 1]: of its steps, or of its time budget where there is one."""
        budget = self.config.train.time_budget_seconds
        if budget is None:
            return self.record.steps / self.config.train.steps
        return min(1.0, self.record.train_seconds / budget)

    def _loop(self, progress: Progress | None) -> None:
        record, settings = self.record, self.config.train
        with (
            environment.stop_on_signals() as stop,
            MetricsFile(self.folder, keep_to_step=record.steps) as metrics,
        ):
            while self._share_done() < 1.0:
                row = self._step()
                if progress is not None:
                    progress(record.steps, row["loss"])
                if self.skipped_in_a_row >= settings.max_skipped_in_a_row:
                    metrics.write(row)
                    record.status = "diverged"
                    record.message = f"{self.skipped_in_a_row} steps in a row without a finite gradient"
                    return
                finished = self._share_done() >= 1.0
                if finished or record.steps % settings.eval_every == 0:
                    row |= self._validate(final=finished)
                if finished or record.steps % settings.log_every == 0 or len(row) > 5:
                    metrics.write(row)
                if not finished and stop:
                    self._save()
                    record.status = "killed"
                    record.message = "stopped by a signal; --resume continues it"
                    return
                if not finished and record.steps % self.runtime.save_every == 0:
                    self._save()
        self._finish()

    def _step(self) -> dict[str, float]:
        """One training step; returns its row of metrics."""
        record, optimizers = self.record, self.optimizers
        begin = time.perf_counter()
        optimizers.schedule(step=record.steps, progress=self._share_done())
        x_BT, y_BT = (
            torch.from_numpy(ids.copy()).to(self.device, non_blocking=True) for ids in self.batches.at(record.steps)
        )
        with self.autocast:
            logits_BTV = self.model(x_BT)
        loss = loss_of(logits_BTV, y_BT)
        loss.backward()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = torch._foreach_norm(gradients)  # torch.nn.utils.get_total_norm without its grouping by device
        loss_value, grad_norm = loss.item(), torch.linalg.vector_norm(torch.stack(norms)).item()
        record.steps += 1
        every = self.config.train.telemetry_every
        watched = every > 0 and (record.steps % every == 0 or record.steps == 1)
        figures: dict[str, float] = {}
        if math.isfinite(grad_norm) and math.isfinite(loss_value):
            self.skipped_in_a_row = 0
            limit = self.config.optim.grad_clip
            if limit is not None and grad_norm > limit:
                torch._foreach_mul_(gradients, limit / (grad_norm + 1e-6))
            if watched:
                self.telemetry.remember()
            optimizers.move()
            if watched:
                figures = self.telemetry.measure()
        else:
            self.skipped_in_a_row += 1
            record.skipped_steps += 1
        # drift is measured only where telemetry reads it before the next projection: it costs as much as to project
        read = every > 0 and (record.steps // every + 1) * every <= record.steps + optimizers.projection.every
        optimizers.projection.after_step(record.steps, measure=read)
        optimizers.zero_grad()
        seconds = time.perf_counter() - begin
        record.train_seconds += seconds
        if record.steps == 1:
            record.weights_sha256["first"] = self._weights_digest()
        lr = optimizers.hidden.param_groups[0]["lr"]
        return {
            "step": record.steps,
            "loss": loss_value,
            "lr": lr,
            "grad_norm": grad_norm,
            "seconds": seconds,
        } | figures

    def _validate(self, *, final: bool) -> dict[str, float]:
        begin = time.perf_counter()
        if final:
            self.optimizers.projection.project()
            result = self.evaluator.measure(self.model, self.autocast)
            if math.isfinite(result.loss):
                self.record.final_val_loss, self.record.final_val_bpb = result.loss, result.bpb
        else:
            with self.optimizers.projection.projected():
                result = self.evaluator.measure(self.model, self.autocast)
        self.record.eval_seconds += time.perf_counter() - begin
        return {"val_loss": result.loss} | ({} if result.bpb is None else {"val_bpb": result.bpb})

    def _finish(self) -> None:
        self.record.weights_sha256["final"] = self._weights_digest()
        if self.runtime.keep_weights:
            state = {"run_id": self.record.run_id, "model": dataclasses.asdict(self.config.model)}
            write_tensors(self.folder / WEIGHTS, dict(self.model.named_parameters()), state)
        if self.record.final_val_loss is None:
            self.record.status, self.record.message = "diverged", "the final validation loss is not finite"
        else:
            self.record.status = "done"

    def _weights_digest(self) -> str:
        return tensors_sha256(dict(self.model.named_parameters()))


@torch.no_grad()
def transfer(source: Path, model: nn.Module) -> str:
    """Copy into `model` the final weights of the run in `source`, all but embedding and head; says what was copied.

    The run's weights were projected at its end, so that those copied lie on the sphere.

    Raises InputError unless the run kept its weights and every transferred tensor has its counterpart's shape.
    """
    path = source / WEIGHTS
    weights, _ = read_tensors(path)
    specs = parameter_specs(model)
    moved: Counter[Role] = Counter()
    fresh: Counter[Role] = Counter()
    for name, parameter in model.named_parameters():
        if specs[name].role in (Role.EMBEDDING, Role.HEAD):
            fresh[specs[name].role] += 1
            continue
        if name not in weights or weights[name].shape != parameter.shape:
            raise InputError(f"--init-from {source}: no {name} of shape {tuple(parameter.shape)} among its weights")
        parameter.copy_(weights[name])
        moved[specs[name].role] += 1
    kept, drawn = (", ".join(f"{n} {role}" for role, n in found.items()) for found in (moved, fresh))
    return f"{kept} tensors; fresh: {drawn}"
