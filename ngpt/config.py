"""The configuration of a run: frozen dataclasses whose fields declare their bounds and needs. No torch.

Every field of `ModelConfig`, `DataConfig`, `OptimConfig` and `TrainConfig` changes a result or how it is measured, so
all of them enter the run's digest (`ngpt.identity`). `Runtime` holds the rest: device, paths, checkpoints.

The string below a field is its documentation: what it is, and in which unit. `train_architectural.py --help` prints it.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ngpt.errors import InputError, require
from ngpt.refusals import (
    FRACTION,
    GIVEN,
    NOT_NEGATIVE,
    POSITIVE,
    RATIO,
    SHARE,
    Bound,
    at_most,
    check,
    first_refusal,
    or_word,
    refusals_of,
)
from ngpt.registry import OPTIMIZERS, is_optimizer

Arch = Literal["gated-ngpt", "ngpt", "gpt", "gated-literal"]
Orthogonalizer = Literal["newton-schulz-cubic", "newton-schulz-literal", "newton-schulz", "you", "polar-express", "svd"]
Precision = Literal["float32", "bfloat16"]
GeodesicAngle = Literal["lr", "lr-norm"]
NorMuonAxis = Literal["short-axis", "rows"]
NorMuonPart = Literal["all", "attention", "mlp", "mlp-in", "mlp-out"]
Tangent = Literal["none", "gradient", "before", "after", "both"]
Transport = Literal["none", "project", "parallel", "rotate"]
Constraint = Literal["vectors", "frobenius", "spectral", "none"]
Track = Literal["trackio", "wandb", "tensorboard"]
Schedule = Literal["constant", "cosine", "linear", "wsd", "sqrt", "power", "log"]

MUON = {"optimizer": ("muon",)}

NORMALIZED = {"arch": ("gated-ngpt", "ngpt")}
ON_SPHERE = {"arch": (*NORMALIZED["arch"], "gated-literal")}
DECAYING = {"schedule": tuple(one for one in typing.get_args(Schedule) if one != "constant")}


def option(
    default: Any,
    *bounds: Bound,
    needs: Mapping[str, Any] | None = None,
    step: bool = False,
    argument: str | None = None,
    reads_weights: bool | tuple[Any, ...] = True,
    unit_vectors: bool = False,
    words: bool = False,
) -> Any:
    """Declare a field of a configuration dataclass, as `dataclasses.field` does; `ngpt.refusals` reads the rest.

    bounds: on values other than None. needs: other fields, each with the values (or GIVEN) without which giving this
    one has no effect and is refused; a step option needs Muon too, unless this is {}.

    step: whether it is a step option, a keyword argument of SimpleMuon, called `argument` there if not as the field.
    reads_weights: the values of a step option at which the step depends on the weights; True: all but the default. At
    other values a call in `rule.apply` may see shards of matrices, and must act on single entries.
    unit_vectors: whether it needs unit vectors at those values.
    words: whether its flag takes several words, joined by spaces.
    """

    def reads(value: Any) -> bool:
        return value in reads_weights if isinstance(reads_weights, tuple) else reads_weights and bool(value != default)

    of_muon = MUON if step and needs != {} else {}
    facts = {"bounds": bounds, "needs": of_muon | dict(needs or {}), "step": step}
    return dataclasses.field(
        default=default,
        metadata=facts | {"argument": argument, "reads": reads, "unit_vectors": unit_vectors, "words": words},
    )


class _Section:
    """A dataclass whose construction raises InputError for the first of its refusals."""

    def __post_init__(self) -> None:
        check(vars(self), type(self))


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Section):
    """The architecture. Formulas: `ngpt.model`."""

    arch: Arch = "gated-ngpt"
    """gated nGPT; the paper's nGPT (arXiv 2410.01131); an unnormalized control; the earlier attempt's gated model"""
    n_layer: int = option(3, POSITIVE, at_most(10_000))
    """transformer blocks"""
    n_embd: int = option(64, POSITIVE, at_most(1_000_000))
    """width d of the residual stream"""
    n_head: int = option(4, POSITIVE)
    """attention heads"""
    seq_len: int = option(64, POSITIVE, at_most(10_000_000))
    """context length in tokens"""
    alpha: float = option(0.15, POSITIVE, at_most(1000), needs=ON_SPHERE)
    """initial step size of the residual updates: a scalar in the gated models; one per channel in ngpt, there 0.05"""
    gate_init: float = option(0.0, needs={"arch": ("gated-ngpt", "gated-literal")})
    """initial logit of the per-channel gates; the gate is its sigmoid"""
    logit_scale_init: float | Literal["sqrt-d"] = option("sqrt-d", or_word("sqrt-d", POSITIVE), needs=NORMALIZED)
    """initial value of the learned scale of the logits; sqrt-d: the square root of the width; in ngpt 1, as in the
    paper. AdamW moves it by at most --aux-lr times this times sqrt(d) a step"""

    @property
    def initial_logit_scale(self) -> float:
        """The number that `logit_scale_init` stands for."""
        return math.sqrt(self.n_embd) if self.logit_scale_init == "sqrt-d" else float(self.logit_scale_init)

    @property
    def starts_unprojected(self) -> bool:
        """Return whether weights start as drawn and are first projected after step 1, as in the earlier attempt."""
        return self.arch == "gated-literal"

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLP: 8d/3 in gated-ngpt, rounded to a multiple of 8 unless 3 divides d; 4d elsewhere.

        At 8d/3 the three matrices of a SwiGLU have as many entries as two matrices of width 4d.
        """
        if self.arch != "gated-ngpt":
            return 4 * self.n_embd
        return 8 * self.n_embd // 3 if self.n_embd % 3 == 0 else 8 * round(self.n_embd / 3)


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Section):
    """The source of the tokens."""

    data: str = "stdlib"
    """stdlib, fineweb10b, hf:NAME or hf:NAME:CONFIG, a file of UTF-8 text, JSON lines, Parquet or token shards, or a
    folder of files; nca for automata, or nca:states=4,grid=8 for others, with any of the fields in
    ngpt/data/cellular.py"""
    tokenizer: Literal["auto", "bytes", "gpt2", "patches"] = "auto"
    """auto: gpt2 for fineweb10b and token shards, patches for nca, bytes otherwise"""
    shards: int = option(4, POSITIVE, needs={"data": ("fineweb10b",)})
    """number of fineweb10b's training shards to use, 100M tokens each"""


@dataclass(frozen=True, kw_only=True)
class OptimConfig(_Section):
    """The optimizer of the hidden matrices, and of the rest: AdamW, or for embedding and head --vocab-rule."""

    optimizer: str = option("muon", (is_optimizer, f"must be {', '.join(OPTIMIZERS)}, module:Class or file.py:Class"))
    """the optimizer of the hidden matrices: muon, adam, or any class, as package.module:Class or path/file.py:Class"""
    optimizer_args: str = option("", words=True)
    """arguments of the class that --optimizer names, as key=value"""
    lr: float = option(0.03, POSITIVE)
    """learning rate of the hidden matrices; for Muon, the length of the step of a unit row of the polar factor"""
    aux_lr: float = option(0.005, POSITIVE, needs={"aux_lr_ratio": (None,)})
    """AdamW's learning rate for everything else; independent of --lr unless --aux-lr-ratio is given"""
    aux_lr_ratio: float | None = option(None, POSITIVE)
    """if given, the learning rate of everything else is this times --lr, and --aux-lr is unused"""
    momentum: float = option(0.95, needs=MUON)
    """Muon's momentum, the decay of an exponential moving average"""
    momentum_start: float | None = option(None, FRACTION, needs=MUON)
    """if given, momentum ramps linearly from here to --momentum"""
    momentum_warmup_steps: int = option(300, POSITIVE, needs=MUON | {"momentum_start": GIVEN})
    """length of the momentum ramp in steps"""
    nesterov: bool = option(True, needs=MUON)
    """orthogonalize (1 - mu) G + mu M instead of M"""
    orthogonalizer: Orthogonalizer = option("newton-schulz", step=True, reads_weights=False)
    """how the polar factor is computed"""
    ns_steps: int = option(5, POSITIVE, needs=MUON)
    """iterations of the orthogonalizer"""
    polar_dtype: Precision = option("float32", needs=MUON)
    """precision of the orthogonalizer's matrix products; --dtype if not given"""
    adjust_lr_fn: Literal["none", "original", "match_rms_adamw"] = option("original", needs=MUON)
    """factor on Muon's step for an m x n matrix; original: sqrt(max(1, m/n)); match_rms_adamw: 0.2 sqrt(max(m, n))"""
    match_step: Literal["none", "rms", "angle"] = option(
        "none", step=True, needs={}, reads_weights=("angle",), unit_vectors=True
    )
    """rescale the step, Muon's before cautious decay; angle, with any optimizer: to a mean rotation of --lr radians in
    each matrix; rms, with Muon: to the Frobenius norm of an exact polar factor"""
    geodesic_muon: GeodesicAngle | None = option(None, step=True, argument="geodesic", unit_vectors=True)
    """rotate each unit vector along its geodesic; lr: by --lr radians; lr-norm: by --lr times the length of its tangent
    update. Then only embedding and head are projected"""
    tangent: Tangent = option("none", step=True, unit_vectors=True)
    """where to remove the radial part: from the gradient before it enters Muon's momentum, from the update before the
    orthogonalizer, after it, or both"""
    momentum_transport: Transport = option("none", step=True, unit_vectors=True)
    """how Muon's momentum follows the unit vectors; project: onto the new tangent space; parallel: its tangent part by
    parallel transport; rotate: all of it, with its radial part"""
    normuon: NorMuonAxis | None = option(None, step=True, reads_weights=False)
    """NorMuon's variance reduction; short-axis: one second moment per row, or per column of wide matrices; rows: always
    per row, as in the paper"""
    normuon_matrices: NorMuonPart = option("all", needs=MUON | {"normuon": GIVEN})
    """hidden matrices that NorMuon applies to: all, those of attention, of the MLP, or only its input or output
    matrices"""
    beta2: float = option(0.95, FRACTION, step=True, reads_weights=False)
    """decay rate of NorMuon's second moment"""
    max_angle: float | None = option(None, POSITIVE, step=True, unit_vectors=True)
    """let no unit vector rotate by more than this many radians in a step of Muon"""
    weight_decay: float = 0.0
    """decoupled weight decay of the hidden matrices, multiplied by --lr"""
    cautious_wd: bool = option(False, step=True)
    """decay only the entries that Muon's update does not move away from zero"""
    nan_fallback: Literal["normuon"] | None = option(None, needs=MUON)
    """when the run would end as diverged, continue once, from the weights before the last step taken, with NorMuon and
    fresh momentum"""
    lazy_proj_freq: int = option(7, POSITIVE, needs=ON_SPHERE)
    """steps K between projections to the sphere of whatever a linear step has moved: after steps K, 2K and so on; with
    gated-literal after steps 1, K + 1, 2K + 1"""
    vocab_rule: Literal["adamw", "rmnp"] = option("adamw", needs=ON_SPHERE)
    """optimizer of embedding and head; rmnp: each vector with a nonzero gradient moves by --vocab-lr against its
    normalized momentum"""
    vocab_lr: float = option(0.02, POSITIVE, needs={"vocab_rule": ("rmnp",)})
    """length of a vector's step with --vocab-rule rmnp; scheduled like the other rates"""
    constraint: Constraint = option("vectors", needs=ON_SPHERE)
    """what projection fixes in a hidden matrix; vectors: each vector's length; frobenius, spectral: that norm, at its
    value for random unit vectors; none: nothing. Embedding and head keep unit vectors"""
    adam_beta1: float = option(0.9, FRACTION)
    """AdamW's first-moment decay rate"""
    adam_beta2: float = option(0.95, FRACTION)
    """AdamW's second-moment decay rate"""
    tail_ema_steps: int | None = option(None, POSITIVE)
    """if given, evaluate and save the weights mixed with their exponential moving average over about this many steps"""
    tail_ema_weight: float = option(0.6, SHARE, needs={"tail_ema_steps": GIVEN})
    """share of the average in that mixture"""
    tail_ema_start: float = option(0.75, FRACTION, needs={"tail_ema_steps": GIVEN})
    """share of the run after which the average begins"""
    schedule: Schedule = "constant"
    """shape of the learning rate over the run, for all parameters: constant, or 1 and then a decay over the last
    --decay-share of it; wsd: warmup-stable-decay, linear at the end. Formulas: docs/method.md"""
    warmup_steps: int = option(0, NOT_NEGATIVE)
    """steps of linear warmup"""
    decay_share: float | None = option(None, needs=DECAYING)
    """fraction of the run spent in the decay at its end; if not given, 0.2 for wsd and 1 for the others"""
    decay_power: float = option(1.2, POSITIVE, needs={"schedule": ("power",)})
    """exponent of the schedule power"""
    decay_rho: float = option(0.1, RATIO, needs={"schedule": ("log",)})
    """bend of the schedule log; small: an early fall and a long tail; large: linear"""
    lr_floor: float = option(0.0, FRACTION, needs=DECAYING)
    """learning rate at the end of the schedule, as a fraction of the peak"""
    grad_clip: float | None = option(None, POSITIVE)
    """clip the global gradient norm to this; none: no clipping, so that no matrix rescales the gradient of another"""

    @property
    def resolved_decay_share(self) -> float:
        """Fraction of the run spent in the decay, whatever was given."""
        return self.decay_share if self.decay_share is not None else 0.2 if self.schedule == "wsd" else 1.0

    @property
    def resolved_aux_lr(self) -> float:
        """AdamW's rate for embeddings, head, gates and scalars."""
        return self.aux_lr if self.aux_lr_ratio is None else self.aux_lr_ratio * self.lr


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Section):
    """The length of training, how often to measure, and the precision."""

    steps: int = option(200, POSITIVE, needs={"time_budget_seconds": (None,)})
    """optimizer steps"""
    time_budget_seconds: float | None = option(None, POSITIVE)
    """if given, stop after this much training time, without startup, each process's first step, and measurements"""
    clock: Literal["wall", "cpu"] = "wall"
    """what measures training time; cpu: CPU time of this process, on one thread, whatever else is running"""
    batch_size: int = option(8, POSITIVE, at_most(1_000_000))
    """sequences per step"""
    eval_tokens: int = option(5120, POSITIVE)
    """validation tokens, in windows spread evenly over the validation split, the same in every run"""
    data_order: int = option(0, NOT_NEGATIVE)
    """0: the order of the training data that --seed gives; another number: another order, same initialization"""
    overfit_windows: int | None = option(None, POSITIVE)
    """if given, train on only this many windows, spread evenly over the training split, and validate on the same"""
    eval_every: int = option(40, POSITIVE)
    """steps between validations; there is always one at the end of the run"""
    log_every: int = option(1, POSITIVE)
    """steps between lines in metrics.jsonl"""
    telemetry_every: int = option(37, NOT_NEGATIVE)
    """steps between measurements of rotation, radial share, drift and orthogonality; 0: never. The default is prime, so
    that measurements do not always fall at the same point between two projections"""
    max_skipped_in_a_row: int = option(10, POSITIVE)
    """consecutive steps without a finite gradient after which the run ends as diverged, or --nan-fallback acts"""
    dtype: Precision = "float32"
    """precision of matrix products, including the orthogonalizer's unless --polar-dtype is given; weights and norms are
    always float32"""
    compile: bool = False
    """use torch.compile for the forward and backward pass: faster steps, after half a minute the first time on a
    machine and seconds later; rounded differently"""
    init_from: str | None = None
    """folder of a finished run whose weights, except embedding and head, this run starts from"""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: all that determines its result."""

    preset: str = "tiny"
    """a named configuration, modified by the other flags"""
    seed: int = option(0, NOT_NEGATIVE)
    """determines initialization and data order"""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        check(flatten(self), RunConfig, *SECTIONS.values())


@dataclass(frozen=True, kw_only=True)
class Runtime(_Section):
    """The execution of a run. Nothing here changes its result, except for rounding on another device."""

    out: Path = Path("runs")
    """folder that holds the run folders"""
    name: str = ""
    """a name for human readers, kept in the record"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if there is one"""
    threads: int = option(0, NOT_NEGATIVE, at_most(1024))
    """CPU threads; 0: one for small models, else one per core. A resumed run keeps the number it started with"""
    save_every: int = option(100, POSITIVE)
    """steps between checkpoints"""
    resume: bool = False
    """continue an interrupted run from its checkpoint"""
    cuda_graphs: bool = True
    """on a GPU, replay steps as CUDA graphs; the kernels are the same either way"""
    keep_weights: bool = True
    """keep the final weights in the run folder"""
    parallel: Literal["zero1", "fsdp"] = "zero1"
    """under torchrun, what is sharded over the ranks; zero1: the optimizer's state, by matrix, with the weights
    replicated; fsdp: the weights as well"""
    progress: bool = True
    """show a progress bar on standard error, and before it what the run says of its data and its steps"""
    dry_run: bool = False
    """print what the run would cost, in parameters, tokens, operations and time here, and end"""
    track: Track | None = None
    """send configuration, metrics and summary to this tracker, whose package must be installed"""
    track_group: str | None = None
    """a name under which the tracker groups runs; needs --track"""


SECTIONS = {"model": ModelConfig, "data": DataConfig, "optim": OptimConfig, "train": TrainConfig}


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return all fields of all sections by name."""
    flat: dict[str, Any] = {"preset": config.preset, "seed": config.seed}
    for section in SECTIONS:
        flat |= dataclasses.asdict(getattr(config, section))
    return flat


def is_a(value: Any, hint: Any) -> bool:
    """Return whether a value read from JSON has a field's type; an integer is also a float."""
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        kind = typing.get_args(hint)[1]
        return type(value) is dict and all(kind is Any or is_a(one, kind) for one in value.values())
    if typing.get_origin(hint) is list:
        return type(value) is list and all(is_a(one, typing.get_args(hint)[0]) for one in value)
    if typing.get_args(hint):  # a union
        return any(is_a(value, kind) for kind in typing.get_args(hint))
    return type(value) is hint or (hint is float and type(value) is int)


def from_dict(content: dict[str, Any]) -> RunConfig:
    """Return the configuration of which `content` is `dataclasses.asdict`; raise InputError unless it is one."""
    try:
        require(set(content) == {"preset", "seed", *SECTIONS}, f"not a run configuration: {', '.join(sorted(content))}")
        for name, hint in (("preset", str), ("seed", int)):
            require(is_a(content[name], hint), f"not a run configuration: {name}")
        for section, kind in SECTIONS.items():
            for name, hint in typing.get_type_hints(kind).items():
                require(is_a(content[section][name], hint), f"not a run configuration: {section}.{name}")
        sections = {section: kind(**content[section]) for section, kind in SECTIONS.items()}
        return RunConfig(preset=content["preset"], seed=content["seed"], **sections)
    except (KeyError, TypeError) as error:
        raise InputError(f"not a run configuration: {error}") from error


@functools.cache
def step_options() -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of OptimConfig that are step options, by SimpleMuon's keywords, in the order declared."""
    options = (field for field in dataclasses.fields(OptimConfig) if field.metadata.get("step"))
    return {field.metadata["argument"] or field.name: field for field in options}


def muon_refusal(group: Mapping[str, Any]) -> str | None:
    """Return why SimpleMuon cannot step with the options of a parameter group, in its keywords; None if it can."""
    keywords = {field.name: keyword for keyword, field in step_options().items()}
    values = {"optimizer": "muon", **group} | {field: group[keyword] for field, keyword in keywords.items()}

    def name(field: str, *value: Any) -> str:
        return "=".join([keywords.get(field, field), *map(repr, value)])

    return first_refusal(values, (one for one in refusals_of(OptimConfig) if one.drop_in), name)
