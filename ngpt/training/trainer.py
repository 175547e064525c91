"""The trainer: the only file that knows data, model, optimizers, evaluation, telemetry, checkpoint and record."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

import ngpt.rules  # noqa: F401 (named by text only: what runs is then what the digest of the code is taken of)
from ngpt import kernels, tracking
from ngpt.config import RunConfig, Runtime
from ngpt.data.batches import Batches
from ngpt.data.corpus import Corpus, load_corpus
from ngpt.errors import InputError, require
from ngpt.files import write_json
from ngpt.foreign import is_class, origin_of
from ngpt.identity import run_digest, run_id
from ngpt.model import build_model
from ngpt.model.roles import Role, parameter_specs
from ngpt.optim.build import build_optimizers
from ngpt.optim.foreign import seed_random
from ngpt.optim.trial import require_fit
from ngpt.ranks import SINGLE_PROCESS, RankLostError, Ranks
from ngpt.registry import entry
from ngpt.training import ahead, checkpoint, environment, preflight
from ngpt.training.checkpoint import CheckpointState, read_tensors, tensors_sha256, write_tensors
from ngpt.training.clock import RunClock
from ngpt.training.evaluation import Evaluator
from ngpt.training.fallback import Fallback
from ngpt.training.folder import claim_run_folder
from ngpt.training.metrics import MetricsFile
from ngpt.training.record import CHECKPOINT, WEIGHTS, RunRecord
from ngpt.training.sharding import shard_model
from ngpt.training.step import Feed, TrainingStep
from ngpt.training.tail_ema import TailEma
from ngpt.training.telemetry import Telemetry

Progress = Callable[[int, float], None]
"""Called after each step with the number of steps made and the training loss."""

SAME_ON_ALL_RANKS = ("out", "save_every", "resume", "cuda_graphs", "keep_weights", "parallel")
"""Runtime fields in which ranks must agree, or they would wait for each other for ever"""

RESUMED = "steps train_seconds timed_steps eval_seconds skipped_steps fell_back_at_step weights_sha256".split()
"""Fields of the record that a resumed run continues from"""


def train(
    config: RunConfig, runtime: Runtime, progress: Progress | None = None, ranks: Ranks = SINGLE_PROCESS,
    *, planned: str | None = None,
) -> tuple[Path, RunRecord]:  # fmt: skip
    """Run one training in its folder under `runtime.out`, and return the folder and the final record.

    Raises InputError on anything wrong with the input, also if a `planned` id is given and the run has another by now;
    any other exception is recorded as `failed` and raised.
    An earlier run of the same id is set aside under another name. With `runtime.resume` it is continued from its
    checkpoint, or from its start if it was killed before the first one, and left as it is if it ended by itself.

    Several ranks call it together with the same arguments. Rank 0 writes the run folder, which all can read.
    """
    if ranks.is_first:
        tracking.require_installed(runtime.track)
    device = environment.choose_device(runtime.device, ranks.local_index)
    corpus = load_corpus(config.data)
    _check(config, runtime, corpus, device, ranks)
    if planned is None:  # else its campaign has tried it
        require_fit(config.optim)
    kernels.load(device)
    identity = run_id(config, corpus.digest)
    require(planned in (identity, None), f"{planned}: the code or the data have changed since this run was planned")
    folder = runtime.out / identity
    agreed = [identity, *(str(getattr(runtime, name)) for name in SAME_ON_ALL_RANKS)]
    ranks.require_same(" ".join(agreed), "the ranks differ in flags, data or code")
    with claim_run_folder(folder, ranks, resume=runtime.resume) as ended:
        if ended is not None:
            return folder, ended
        run = Run(config, runtime, corpus, device, folder, ranks)
        if runtime.resume and runtime.progress and run.checkpoint is None and ranks.is_first:
            print(f"note: nothing to resume in {folder}: the run starts at its first step", file=sys.stderr)
        with closing(run.tracker), run.recorded():
            run.build()
            run.loop(progress)
        return folder, run.record


def _check(config: RunConfig, runtime: Runtime, corpus: Corpus, device: torch.device, ranks: Ranks) -> None:
    """Raise InputError unless corpus, device and ranks allow the run."""
    preflight.require_windows(config, corpus)
    for flag, text in (("--name", runtime.name), ("--track-group", runtime.track_group or "group")):
        require(text.isprintable(), f"{flag} {text!r}: it holds a character that cannot be shown")
    plain = runtime.track_group is None or runtime.track_group.strip(" .") and "/" not in runtime.track_group
    require(bool(plain), f"--track-group {runtime.track_group!r}: the name of a folder is not empty and has no slash")
    if config.train.clock == "cpu" and (device.type != "cpu" or _threads(config, runtime, ranks) != 1):
        raise InputError("--clock cpu measures the time of one CPU thread: it needs --device cpu and --threads 1")
    if config.train.compile and device.type == "cpu":
        ahead.require_compiler()
    optimizer, size = config.optim.optimizer, config.train.batch_size
    why = f"--optimizer {optimizer}: a class that the user names runs in one process only"
    require(ranks.count == 1 or not is_class(optimizer), why)
    why = f"--match-step angle with --optimizer {optimizer} works in one process only"
    require(ranks.count == 1 or optimizer == "muon" or config.optim.match_step == "none", why)
    require(size % ranks.count == 0, f"--batch-size {size} cannot be split equally among {ranks.count} ranks")


def _threads(config: RunConfig, runtime: Runtime, ranks: Ranks) -> int:
    return runtime.threads or environment.default_threads(config, ranks.local_count)


class Run:
    """One run in progress, or one rank's part of it: its parts, its counters, and the loop."""

    def __init__(
        self, config: RunConfig, runtime: Runtime, corpus: Corpus, device: torch.device, folder: Path, ranks: Ranks
    ) -> None:
        self.config, self.runtime, self.corpus, self.device, self.folder = config, runtime, corpus, device, folder
        self.ranks, self.skipped_in_a_row = ranks, 0
        threads = _threads(config, runtime, ranks)
        self.checkpoint = self._read_checkpoint()
        earlier = None if self.checkpoint is None else self.checkpoint[1].record
        if earlier is not None and earlier.ranks == ranks.count:
            threads = earlier.threads  # another number would add in another order
        environment.prepare(device, threads)
        self.record = RunRecord(
            run_id=folder.name, digest=run_digest(config, corpus.digest), name=runtime.name or folder.name,
            status="running", seed=config.seed, config=dataclasses.asdict(config), versions=environment.versions(),
            device=environment.device_name(device), threads=threads, ranks=ranks.count, commit=environment.commit(),
            data_name=corpus.name, data_digest=corpus.digest,
            **({} if earlier is None else {name: getattr(earlier, name) for name in RESUMED}),
        )  # fmt: skip
        self.clock = RunClock(self.record, config.train, ranks)
        self.tracker = tracking.RunTracker(runtime.track if ranks.is_first else None, folder, runtime.track_group)

    def _read_checkpoint(self) -> tuple[dict[str, Tensor], CheckpointState] | None:
        path, found = self.folder / CHECKPOINT, None
        if self.runtime.resume and path.exists():
            tensors, content = read_tensors(path)
            found = tensors, checkpoint.parse_checkpoint_state(content, path)
            require(found[1].record.run_id == self.folder.name, f"{path}: this checkpoint belongs to another run")
        step = "none" if found is None else str(found[1].record.steps)
        self.ranks.require_same(step, f"{path}: not all ranks see the same checkpoint")
        return found

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Write the record before and after the block, whatever happens in it."""
        record = self.record
        if self.ranks.is_first:
            write_json(self.folder / "config.json", record.config)
        self._write_record()
        try:
            with environment.out_of_memory_as_error(self.device), self.ranks.lost_ranks_as_errors():
                yield
        except BaseException as error:
            record.status = "killed" if isinstance(error, KeyboardInterrupt | RankLostError) else "failed"
            record.message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise
        finally:
            record.peak_memory_bytes = environment.peak_memory_bytes(self.device)
            if record.train_seconds:
                tokens = record.timed_steps * self.config.train.batch_size * self.config.model.seq_len
                record.tokens_per_second = tokens / record.train_seconds
            if record.status in ("done", "diverged"):
                record.finished = datetime.now(UTC).isoformat(timespec="seconds")
            self._write_record()
        if record.status in ("done", "diverged") and self.ranks.is_first:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _write_record(self) -> None:
        if self.ranks.is_first:
            self.record.write(self.folder)

    def _note(self, text: str) -> None:
        if self.runtime.progress and self.ranks.is_first:
            print(text, file=sys.stderr)

    # --- parts -------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Build all parts of the run, in the state of its start or of its checkpoint."""
        config, device, record, corpus = self.config, self.device, self.record, self.corpus
        for line in corpus.described:
            self._note(line)
        self.model = build_model(config.model, corpus.vocab_size, seed=config.seed)
        specs = parameter_specs(self.model)
        self.sharding = shard_model(self.model, specs, self.ranks, self.runtime.parallel, device)
        if is_class(config.optim.optimizer):
            seed_random(config.seed)
        self.optimizers = build_optimizers(self.model, config, self.sharding.owned)
        if config.optim.optimizer == "muon":
            record.orthogonalizer = kernels.describe(getattr(torch, config.optim.polar_dtype), device)
            self._note(f"orthogonalizer: {record.orthogonalizer}")
        if is_class(config.optim.optimizer):
            record.optimizer_origin = origin_of(config.optim.optimizer).text
            self._note(f"optimizer: {record.optimizer_origin}")
        self.fallback = Fallback(self.sharding, self.optimizers, record)
        self.average = TailEma(config.optim, self.sharding.owned)
        every = config.train.telemetry_every
        self.telemetry = Telemetry(self.model, specs, self.optimizers.projection, self.sharding, every=every)
        batches, self.evaluator = self._data()
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.train.dtype == "bfloat16")
        self.training_step = TrainingStep(
            self.model, self.optimizers, Feed(batches, device), self.autocast, self.sharding,
            compiled=config.train.compile,
            graphs=(
                self.runtime.cuda_graphs and device.type == "cuda" and self.ranks.count == 1
                and entry(config.optim.optimizer).capturable and config.optim.vocab_rule == "adamw"
            ),
        )  # fmt: skip
        record.engine = self.training_step.describe()
        record.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        record.eval_tokens = self.evaluator.tokens
        if self.checkpoint is not None:
            tensors, state = self.checkpoint
            self.checkpoint = None
            self.skipped_in_a_row = state.skipped_in_a_row
            tensors = checkpoint.unpack_foreign(
                self.folder / CHECKPOINT, tensors, self.optimizers.foreign, state.foreign
            )
            if any(name.startswith("average.") for name in tensors):
                self.average.begin()
            checkpoint.unpack_state(
                self.folder / CHECKPOINT, self.sharding.owned_tensors(tensors), self.sharding.owned,
                self.optimizers.built_in, self._other_weights(), finite=state.finite,
            )  # fmt: skip
            drift = {Role(role): torch.tensor(value) for role, value in state.seen_drift.items()}
            self.optimizers.projection.seen_drift = drift
            self.telemetry.logit_scale.state = state.logit_scale
        else:
            if config.train.init_from is not None:
                moved, weights = checkpoint.transfer(Path(config.train.init_from), self.sharding.owned, specs)
                same = run_digest(config, self.corpus.digest, weights) == record.digest
                require(same, f"--init-from {config.train.init_from}: not the weights that its record states")
                self.optimizers.projection.project(all_of_them=True)
                self._note(f"transferred from {config.train.init_from}: {moved}")
            self.fallback.remember()
        self.sharding.broadcast_weights()
        if config.train.compile:
            self._note(ahead.NOTE)
        if self.runtime.progress and self.ranks.is_first and device.type == "cpu":
            steps = 1 if config.train.time_budget_seconds is not None else config.train.steps - record.steps
            for line in preflight.announcement(config, self.corpus.vocab_size, steps=steps):
                self._note(line)

    def _data(self) -> tuple[Batches, Evaluator]:
        """Return training batches and validation; with --overfit-windows, both on the same few windows."""
        config, corpus, ranks = self.config, self.corpus, self.ranks
        training, validation = (corpus.windows(split, config.model.seq_len) for split in (corpus.train, corpus.val))
        eval_tokens, few = config.train.eval_tokens, config.train.overfit_windows
        if few is not None:
            count = training.count
            require(count >= few, f"--overfit-windows {few}: --data {config.data.data} has {count} windows")
            training = validation = training.spread(few)
            eval_tokens = few * config.model.seq_len
        batch_size, seed = config.train.batch_size, config.seed
        order = config.train.data_order
        batches = Batches(training, batch_size=batch_size, seed=seed, order=order, part=ranks.index, parts=ranks.count)
        evaluator = Evaluator(validation, corpus.byte_lengths, eval_tokens=eval_tokens, device=self.device, ranks=ranks)
        return batches, evaluator

    def _other_weights(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"before": self.fallback.weights, "average": self.average.tensors}

    def _save(self) -> None:
        scale = self.telemetry.logit_scale.state
        packed = checkpoint.pack_state(self.sharding.owned, self.optimizers.built_in, self._other_weights())
        of_foreign, foreign = checkpoint.pack_foreign(self.optimizers.foreign)
        drift = self.telemetry.seen_drift()
        tensors = self.sharding.gather(packed | of_foreign)
        if self.ranks.is_first:
            finite = all(bool(tensor.isfinite().all()) for tensor in tensors.values())
            state = CheckpointState(self.record, self.skipped_in_a_row, drift, scale, finite, foreign)
            write_tensors(self.folder / CHECKPOINT, tensors, dataclasses.asdict(state))
        self._write_record()

    def _end_inside_a_step(self) -> None:
        """Record the end of a run whose step did not end when a signal came."""
        self.record.status = "killed"
        saved = (self.folder / CHECKPOINT).exists()
        how = "--resume continues from the last checkpoint" if saved else "--resume starts over: there is no checkpoint"
        self.record.message = f"stopped by a signal inside a long step; {how}"
        self._write_record()
        self._note(f"{self.record.message}: {self.folder}")

    # --- loop --------------------------------------------------------------------------------------------------------

    def loop(self, progress: Progress | None) -> None:
        """Train to the end, a signal or divergence; log, validate and save in between."""
        record, settings = self.record, self.config.train
        with (
            environment.stop_on_signals(self._end_inside_a_step) as stop,
            MetricsFile(self.folder, keep_to_step=record.steps, log_every=settings.log_every)
            if self.ranks.is_first else nullcontext() as metrics,
        ):
            if metrics is not None:
                self.tracker.start(metrics.written)
                if metrics.missing:
                    self._note(f"note: {metrics.missing} lines of {metrics.path} are missing; training is not affected")
            while not self.clock.finished:
                row, figures = self.step()
                if progress is not None:
                    progress(record.steps, row["loss"])
                if self.skipped_in_a_row >= settings.max_skipped_in_a_row and not self._fall_back():
                    if metrics is not None:
                        metrics.write(row)
                    record.status = "diverged"
                    record.message = f"{self.skipped_in_a_row} steps in a row without a finite gradient"
                    return
                finished = self.clock.finished
                if finished or record.steps % settings.eval_every == 0:
                    figures |= self._validate(final=finished)
                if metrics is not None and (finished or record.steps % settings.log_every == 0 or figures):
                    metrics.write(row | figures)
                if not finished and self.ranks.any_rank(bool(stop)):
                    self._save()
                    record.status, record.message = "killed", "stopped by a signal; --resume continues it"
                    self.tracker.patience = tracking.STOP_SECONDS
                    return
                if not finished and record.steps % self.runtime.save_every == 0:
                    self._save()
        self._finish()

    def step(self) -> tuple[dict[str, float], dict[str, float]]:
        """Make one training step; return its row of metrics and, if it is due, its telemetry."""
        record, telemetry, projection = self.record, self.telemetry, self.optimizers.projection
        figures: dict[str, float] = {}
        with self.clock.step():
            lr = self.optimizers.schedule(step=record.steps, progress=self.clock.progress)
            loss, grad_norm = self.training_step.take_gradients(record.steps)
            record.steps += 1
            finite = math.isfinite(grad_norm) and math.isfinite(loss)
            if finite:
                self.skipped_in_a_row = 0
                limit = self.config.optim.grad_clip
                if limit is not None and grad_norm > limit:
                    torch._foreach_mul_(self.training_step.gradients, limit / (grad_norm + 1e-6))
                self.fallback.remember()
                if watched := telemetry.is_due(record.steps):
                    with self.clock.paused():
                        telemetry.remember()
                self.training_step.move()
                telemetry.logit_scale.stepped(self.config.optim.resolved_aux_lr * (lr / self.config.optim.lr))
                if watched:
                    with self.clock.paused():
                        figures = telemetry.measure()
            else:
                self.skipped_in_a_row += 1
                record.skipped_steps += 1
            projection.after_step(record.steps, measure=telemetry.reads_drift(record.steps))
            if finite:
                self.average.after_step(self.clock.progress)
            self.sharding.broadcast_weights()
            self.training_step.end(moved=finite)
        if record.steps == 1:
            record.weights_sha256["first"] = tensors_sha256(self.sharding.gather(self.sharding.owned))
        row = {"step": record.steps, "loss": loss, "lr": lr, "grad_norm": grad_norm}
        return row | {"seconds": self.clock.step_seconds, "train_seconds": record.train_seconds}, figures

    def _fall_back(self) -> bool:
        """Let the fallback take over; return False if there is none any more."""
        if taken_over := self.fallback.take_over():
            self.training_step.discard_graphs()
            self.average.forget()
            self.skipped_in_a_row = 0
            self._note(f"after {self.record.steps} steps: no finite gradient; NorMuon takes over")
        return taken_over

    def _validate(self, *, final: bool) -> dict[str, float]:
        """Measure the loss of projected (and averaged) weights; only the last validation leaves them so."""
        projection, average = self.optimizers.projection, self.average
        with self.clock.paused():
            self.corpus.require_unchanged()
            if final:
                average.apply()
                projection.project(all_of_them=average.begun)
            with (
                nullcontext() if final else average.mixed(),
                nullcontext() if final else projection.projected(all_of_them=average.begun),
            ):
                self.sharding.broadcast_weights()
                figures = self.evaluator.measure(self.model, self.autocast)
            if not final:
                self.sharding.broadcast_weights()
        if final and math.isfinite(figures["val_loss"]):
            self.record.final_val_loss, self.record.final_val_bpb = figures["val_loss"], figures.get("val_bpb")
        return figures

    def _finish(self) -> None:
        record, weights = self.record, self.sharding.gather(self.sharding.owned)
        record.weights_sha256["final"] = tensors_sha256(weights)
        if self.runtime.keep_weights and self.ranks.is_first:
            write_tensors(self.folder / WEIGHTS, weights, {"run_id": record.run_id, "model": record.config["model"]})
        record.limited_by = ["logit scale"] if self.telemetry.logit_scale.limits() else None
        record.status = "done"
        if record.final_val_loss is None:
            record.status, record.message = "diverged", "the final validation loss is not finite"
