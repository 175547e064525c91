"""The trainer: the only file that knows data, model, optimizers, evaluation, telemetry, checkpoint and record."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import torch

from ngpt import kernels
from ngpt.config import RunConfig, Runtime
from ngpt.data.batches import Batches
from ngpt.data.corpus import Corpus, load_corpus
from ngpt.errors import InputError
from ngpt.files import write_json
from ngpt.identity import run_digest, run_id
from ngpt.machine import core_count
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.optim.sharded import cut_like, local_of
from ngpt.ranks import ALONE, RankLostError, Ranks
from ngpt.training import environment
from ngpt.training.checkpoint import (
    Progressed,
    kind_of,
    pack,
    progressed_of,
    read_tensors,
    tensors_sha256,
    transfer,
    unpack,
    write_tensors,
)
from ngpt.training.evaluation import Evaluator
from ngpt.training.folder import CHECKPOINT, WEIGHTS, claimed
from ngpt.training.metrics import MetricsFile
from ngpt.training.record import RunRecord
from ngpt.training.shares import share
from ngpt.training.step import Feed, TrainingStep
from ngpt.training.telemetry import Telemetry

Progress = Callable[[int, float], None]
"""Called after each step with the number of steps made and the training loss."""

BEFORE = "before."
"""Begins the names of a checkpoint's weights to fall back to"""

AGREED = ("out", "save_every", "resume", "cuda_graphs", "keep_weights", "parallel")
"""What of the runtime all ranks must have alike, or they would wait for each other for ever"""

KEPT = ("steps", "train_seconds", "timed_steps", "eval_seconds", "skipped_steps", "fell_back_at_step", "weights_sha256")
"""Of a record, what a resumed run goes on from"""


def train(
    config: RunConfig, runtime: Runtime, progress: Progress | None = None, ranks: Ranks = ALONE
) -> tuple[Path, RunRecord]:
    """Carry out one run in its folder under `runtime.out` and return the folder and the final record.

    Raises InputError on anything wrong with the input; any other exception is recorded as `failed` and raised.
    An earlier run of the same id is set aside under another name. With `runtime.resume` it is continued from its
    checkpoint, or from its start if it was killed before the first one, and left as it is if it ended by itself.

    Several ranks call it together, with the same arguments. The first one writes the run's folder, which all can read.
    """
    device = environment.choose_device(runtime.device, ranks.local_index)
    corpus = load_corpus(config.data)
    for split, tokens in (("training", corpus.train), ("validation", corpus.val)):
        if min(len(tokens), corpus.record or len(tokens)) <= config.model.seq_len:
            whole = "" if corpus.record is None else f" in sequences of {corpus.record}"
            raise InputError(
                f"--data {config.data.data}: {len(tokens)} {split} tokens{whole} are not one window of --seq-len"
            )
    if config.train.clock == "cpu" and (device.type != "cpu" or (runtime.threads or core_count()) != 1):
        raise InputError("--clock cpu tells the time of one CPU thread: it needs --device cpu and --threads 1")
    if corpus.context > config.model.seq_len:
        raise InputError(f"--data {config.data.data}: --seq-len must reach beyond the first {corpus.context} tokens")
    if config.train.batch_size % ranks.count:
        raise InputError(f"--batch-size {config.train.batch_size} cannot be shared equally by {ranks.count} ranks")
    identity = run_id(config, corpus.digest)
    folder = runtime.out / identity
    told = [identity, *(str(getattr(runtime, name)) for name in AGREED)]
    ranks.require_same(" ".join(told), "the ranks have other flags, data or code than each other")
    with claimed(folder, ranks, resume=runtime.resume) as ended:
        if ended is not None:
            return folder, ended
        return folder, Run(config, runtime, corpus, device, folder, ranks).carry_out(progress)


class Run:
    """One run in progress, or one rank's part of it: its parts, its counters, and the loop."""

    def __init__(
        self, config: RunConfig, runtime: Runtime, corpus: Corpus, device: torch.device, folder: Path, ranks: Ranks
    ) -> None:
        self.config, self.runtime, self.corpus, self.device, self.folder = config, runtime, corpus, device, folder
        self.ranks = ranks
        self.talking = runtime.progress and ranks.first
        self.skipped_in_a_row = 0
        self.started = False
        """whether this process has made a step, whose time is start-up"""
        self.before: dict[str, torch.Tensor] = {}
        """the weights before the latest step made, while --nan-fallback may need them"""
        threads, path = runtime.threads or max(1, core_count() // ranks.local_count), folder / CHECKPOINT
        self.checkpoint: tuple[dict[str, torch.Tensor], Progressed] | None = None
        if runtime.resume and path.exists():
            tensors, state = read_tensors(path)
            self.checkpoint = tensors, progressed_of(state, path)
            if self.checkpoint[1].record.run_id != folder.name:
                raise InputError(f"{path}: the checkpoint of another run")
            if self.checkpoint[1].record.ranks == ranks.count:
                threads = self.checkpoint[1].record.threads  # another number would add in another order
        at = "none" if self.checkpoint is None else str(self.checkpoint[1].record.steps)
        ranks.require_same(at, f"{path}: not all ranks see the same checkpoint")
        environment.prepare(device, threads)
        self.clock = time.process_time if config.train.clock == "cpu" else time.perf_counter
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
            ranks=ranks.count,
            commit=environment.commit(),
            data_name=corpus.name,
            data_digest=corpus.digest,
        )

    def carry_out(self, progress: Progress | None) -> RunRecord:
        """Build or resume, train, validate, and leave a record whatever happens."""
        if self.ranks.first:
            write_json(self.folder / "config.json", dataclasses.asdict(self.config))
        self._write_record()
        try:
            with environment.naming_lack_of_memory(self.device), self.ranks.naming_lost_ranks():
                self._build()
                self._loop(progress)
        except BaseException as error:
            self.record.status = "killed" if isinstance(error, KeyboardInterrupt | RankLostError) else "failed"
            self.record.message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise
        finally:
            self.record.peak_memory_bytes = environment.peak_memory_bytes(self.device)
            if self.record.train_seconds:
                done = self.record.timed_steps * self.config.train.batch_size * self.config.model.seq_len
                self.record.tokens_per_second = done / self.record.train_seconds
            if self.record.status in ("done", "diverged"):
                self.record.finished = datetime.now(UTC).isoformat(timespec="seconds")
            self._write_record()
        if self.record.status in ("done", "diverged") and self.ranks.first:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return self.record

    def _write_record(self) -> None:
        if self.ranks.first:
            self.record.write(self.folder)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        config, device, corpus = self.config, self.device, self.corpus
        self.model = build_model(config.model, corpus.vocab_size, seed=config.seed)
        self.specs = parameter_specs(self.model)
        self.shares = share(self.model, self.specs, self.ranks, self.runtime.parallel, device)
        self.optimizers = build_optimizers(self.model, config, self.shares.owned)
        if config.optim.optimizer == "muon":
            self.record.orthogonaliser = kernels.said_in_one_line(getattr(torch, config.optim.polar_dtype), device)
            if self.talking:
                print(f"orthogonaliser: {self.record.orthogonaliser}", file=sys.stderr)
        self.telemetry = Telemetry(self.model, self.specs, self.optimizers.projection, self.shares)
        training, validation = (corpus.windows(split, config.model.seq_len) for split in (corpus.train, corpus.val))
        eval_tokens, few = config.train.eval_tokens, config.train.overfit_windows
        if few is not None:
            if training.count < few:
                raise InputError(f"--overfit-windows {few}: --data {config.data.data} has {training.count}")
            training = validation = training.spread(few)
            eval_tokens = few * config.model.seq_len
        batches = Batches(
            training, batch_size=config.train.batch_size, seed=config.seed,
            part=self.ranks.index, parts=self.ranks.count,
        )  # fmt: skip
        self.evaluator = Evaluator(
            validation, corpus.byte_lengths, eval_tokens=eval_tokens, device=device, ranks=self.ranks
        )
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.train.dtype == "bfloat16")
        self.training_step = TrainingStep(
            self.model, self.optimizers, Feed(batches, device), self.autocast, self.shares,
            compiled=config.train.compile,
            graphs=self.runtime.cuda_graphs and device.type == "cuda" and self.ranks.count == 1,
        )  # fmt: skip
        self.record.engine = self.training_step.said_in_one_line()
        self.record.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.record.eval_tokens = self.evaluator.tokens
        if self.checkpoint is not None:
            self._restore(*self.checkpoint)
            self.checkpoint = None
        elif config.train.init_from is not None:
            moved = transfer(Path(config.train.init_from), self.shares.owned, self.specs)
            self.optimizers.projection.start()
            if self.talking:
                print(f"transferred from {config.train.init_from}: {moved}", file=sys.stderr)
        self.shares.publish()
        if self._may_fall_back() and not self.before:
            self.before = {name: tensor.detach().clone() for name, tensor in self.shares.owned.items()}

    def _remember_weights(self) -> None:
        kept, now = ([local_of(tensor) for tensor in of.values()] for of in (self.before, self.shares.owned))
        torch._foreach_copy_(kept, [tensor.detach() for tensor in now])

    def _restore(self, tensors: dict[str, torch.Tensor], progressed: Progressed) -> None:
        path = self.folder / CHECKPOINT
        for name in KEPT:
            setattr(self.record, name, getattr(progressed.record, name))
        if self.record.fell_back_at_step is not None:
            self.optimizers.fall_back()
        tensors = self.shares.own_part(tensors)
        before = {n.removeprefix(BEFORE): t for n, t in tensors.items() if n.startswith(BEFORE)}
        state = {n: t for n, t in tensors.items() if not n.startswith(BEFORE)}
        sound = progressed.skipped_in_a_row == 0
        unpack(path, state, self.shares.owned, self.optimizers.all, finite=sound)
        kinds = {name: kind_of(tensor) for name, tensor in self.shares.owned.items()}
        if {name: kind_of(tensor) for name, tensor in before.items()} != (kinds if self._may_fall_back() else {}):
            raise InputError(f"{path}: the weights to fall back to are not those of this run")
        owned = self.shares.owned.items()  # in the order of the parameters
        self.before = {name: cut_like(before[name], p).to(self.device) for name, p in owned if before}
        self.skipped_in_a_row = progressed.skipped_in_a_row
        drift = {Role(role): torch.tensor(value) for role, value in progressed.seen_drift.items()}
        self.optimizers.projection.seen_drift = drift

    def _save(self) -> None:
        drift = {role.value: value for role, value in self.telemetry.seen_drift().items()}
        state = dataclasses.asdict(Progressed(self.record, self.skipped_in_a_row, drift))
        before = {BEFORE + name: tensor for name, tensor in self.before.items()}
        tensors = self.shares.gather(pack(self.shares.owned, self.optimizers.all) | before)
        if self.ranks.first:
            write_tensors(self.folder / CHECKPOINT, tensors, state)
        self._write_record()

    # --- loop --------------------------------------------------------------------------------------------------------

    def _share_done(self) -> float:
        """Share of the run that is done, in [0, 1]: of its steps, or of its time budget where there is one."""
        budget = self.config.train.time_budget_seconds
        if budget is None:
            return self.record.steps / self.config.train.steps
        return min(1.0, self.record.train_seconds / budget)

    def _at_the_end(self) -> bool:
        """Whether no step is left; of a time budget, whether its end is nearer now than after another step."""
        record, budget = self.record, self.config.train.time_budget_seconds
        if budget is None:
            return record.steps >= self.config.train.steps
        return record.train_seconds * (1 + 0.5 / max(1, record.timed_steps)) >= budget

    def _loop(self, progress: Progress | None) -> None:
        record, settings = self.record, self.config.train
        with (
            environment.stop_on_signals() as stop,
            MetricsFile(self.folder, keep_to_step=record.steps) if self.ranks.first else nullcontext() as metrics,
        ):
            while not self._at_the_end():
                row, figures = self._step()
                if progress is not None:
                    progress(record.steps, row["loss"])
                if self.skipped_in_a_row >= settings.max_skipped_in_a_row and not self._fall_back():
                    if metrics is not None:
                        metrics.write(row)
                    record.status = "diverged"
                    record.message = f"{self.skipped_in_a_row} steps in a row without a finite gradient"
                    return
                finished = self._at_the_end()
                if finished or record.steps % settings.eval_every == 0:
                    figures |= self._validate(final=finished)
                if metrics is not None and (finished or record.steps % settings.log_every == 0 or figures):
                    metrics.write(row | figures)
                if not finished and self.ranks.any(bool(stop)):
                    self._save()
                    record.status = "killed"
                    record.message = "stopped by a signal; --resume continues it"
                    return
                if not finished and record.steps % self.runtime.save_every == 0:
                    self._save()
        self._finish()

    def _step(self) -> tuple[dict[str, float], dict[str, float]]:
        """One training step; returns its row of metrics and, where it was watched, its telemetry."""
        record, optimizers = self.record, self.optimizers
        measuring = 0.0
        begin = self.clock()
        lr = optimizers.schedule(step=record.steps, progress=self._share_done())
        loss_value, grad_norm = self.training_step.take_gradients(record.steps)
        record.steps += 1
        every = self.config.train.telemetry_every
        watched = every > 0 and (record.steps % every == 0 or record.steps == 1)
        figures: dict[str, float] = {}
        finite = math.isfinite(grad_norm) and math.isfinite(loss_value)
        if finite:
            self.skipped_in_a_row = 0
            limit = self.config.optim.grad_clip
            if limit is not None and grad_norm > limit:
                self.training_step.scale_gradients(limit / (grad_norm + 1e-6))
            if self.before:
                self._remember_weights()
            if watched:
                pause = self.clock()
                self.telemetry.remember()
                measuring = self.clock() - pause
            self.training_step.move()
            if watched:
                pause = self.clock()
                figures = self.telemetry.measure()
                measuring += self.clock() - pause
        else:
            self.skipped_in_a_row += 1
            record.skipped_steps += 1
        # drift is measured only where telemetry reads it before the next projection: it costs as much as to project
        read = every > 0 and (record.steps // every + 1) * every <= record.steps + optimizers.projection.every
        optimizers.projection.after_step(record.steps, measure=read)
        self.shares.publish()
        self.training_step.end(moved=finite)
        seconds = self.clock() - begin - measuring
        if self.config.train.time_budget_seconds is not None:
            seconds = self.ranks.of_first(seconds)  # all must end at the same step
        record.eval_seconds += measuring
        if self.started:
            record.train_seconds += seconds
            record.timed_steps += 1
        self.started = True
        if record.steps == 1:
            record.weights_sha256["first"] = tensors_sha256(self.shares.gather(self.shares.owned))
        row = {
            "step": record.steps,
            "loss": loss_value,
            "lr": lr,
            "grad_norm": grad_norm,
            "seconds": seconds,
            "train_seconds": record.train_seconds,
        }
        return row, figures

    def _may_fall_back(self) -> bool:
        return self.config.optim.nan_fallback is not None and self.record.fell_back_at_step is None

    @torch.no_grad()
    def _fall_back(self) -> bool:
        """Go on from the weights before the latest step made, with NorMuon; False where that is not to be done."""
        if not self._may_fall_back():
            return False
        for name, tensor in self.shares.owned.items():
            local_of(tensor).copy_(local_of(self.before[name]))
        self.shares.publish()
        self.before = {}
        self.optimizers.fall_back()
        self.training_step.optimizers_changed()
        self.skipped_in_a_row = 0
        self.record.fell_back_at_step = self.record.steps
        if self.talking:
            print(f"after {self.record.steps} steps: no finite gradient; NorMuon takes over", file=sys.stderr)
        return True

    def _validate(self, *, final: bool) -> dict[str, float]:
        begin = self.clock()
        if final:
            self.optimizers.projection.project()
            self.shares.publish()
            result = self.evaluator.measure(self.model, self.autocast)
            if math.isfinite(result.loss):
                self.record.final_val_loss, self.record.final_val_bpb = result.loss, result.bpb
        else:
            with self.optimizers.projection.projected():
                self.shares.publish()
                result = self.evaluator.measure(self.model, self.autocast)
            self.shares.publish()
        self.record.eval_seconds += self.clock() - begin
        return {"val_loss": result.loss} | ({} if result.bpb is None else {"val_bpb": result.bpb})

    def _finish(self) -> None:
        weights = self.shares.gather(self.shares.owned)
        self.record.weights_sha256["final"] = tensors_sha256(weights)
        if self.runtime.keep_weights and self.ranks.first:
            state = {"run_id": self.record.run_id, "model": dataclasses.asdict(self.config.model)}
            write_tensors(self.folder / WEIGHTS, weights, state)
        if self.record.final_val_loss is None:
            self.record.status, self.record.message = "diverged", "the final validation loss is not finite"
        else:
            self.record.status = "done"
