"""What a run is: frozen dataclasses and what is refused of each. Presets are in `ngpt.presets`. No torch.

Every field of `ModelConfig`, `DataConfig`, `OptimConfig` and `TrainConfig` changes a result or what is measured of it,
so all of them enter the run's digest (`ngpt.identity`). `Runtime` holds the rest: device, paths, checkpoints.

The string below a field is its documentation: what it is and in which unit. `train_architectural.py --help` prints it.
"""

import dataclasses
import os
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ngpt.errors import InputError

Arch = Literal["gated-ngpt", "ngpt", "gpt", "gated-literal"]
Orthogonalizer = Literal["newton-schulz-cubic", "newton-schulz", "you", "polar-express", "svd"]
Precision = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "cosine", "linear", "wsd"]
GeodesicAngle = Literal["lr", "lr-norm"]
NorMuonAxis = Literal["short-axis", "rows"]
Tangent = Literal["none", "before", "after", "both"]
Transport = Literal["none", "project", "parallel", "rotate"]
MatchStep = Literal["none", "rms", "angle"]


def flag_name(field_name: str) -> str:
    """`n_layer` -> `--n-layer`."""
    return "--" + field_name.replace("_", "-")


def require(condition: bool, message: str) -> None:
    """Raise InputError with `message` unless `condition` holds."""
    if not condition:
        raise InputError(message)


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or 0 < value < 2**63, f"{flag_name(name)} must be positive: {value}")


def _require_at_most(config: Any, **largest: int) -> None:
    """Sizes beyond which nothing is meant: a slip that would otherwise end in hours of allocation."""
    for name, most in largest.items():
        value = getattr(config, name)
        require(value <= most, f"{flag_name(name)} must be at most {most:,}: {value}")


def _require_share(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or 0 <= value < 1, f"{flag_name(name)} must lie in [0, 1): {value}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture. Formulas: `ngpt.model`."""

    arch: Arch = "gated-ngpt"
    """gated nGPT; the paper's nGPT (arXiv 2410.01131); the unnormalised control; the earlier attempt's gated model"""
    n_layer: int = 3
    """transformer blocks"""
    n_embd: int = 64
    """width d of the residual stream"""
    n_head: int = 4
    """attention heads"""
    seq_len: int = 64
    """context length in tokens"""
    alpha: float = 0.15
    """initial step size of each residual step (scalar in the gated models, 0.05 per channel in ngpt)"""
    gate_init: float = 0.0
    """initial logit of the per-channel gates; a gate is its sigmoid"""

    def __post_init__(self) -> None:
        _require_positive(self, "n_layer", "n_embd", "n_head", "seq_len", "alpha")
        _require_at_most(self, n_layer=10_000, n_embd=1_000_000, seq_len=10_000_000, alpha=1000)
        require(
            self.n_embd % self.n_head == 0,
            f"--n-embd {self.n_embd} is not divisible by --n-head {self.n_head}",
        )
        require(self.n_embd // self.n_head >= 2, "--n-embd leaves less than 2 dimensions a head")
        require(abs(self.gate_init) <= 80, f"--gate-init must lie in [-80, 80], float32's gates: {self.gate_init}")

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the MLP: 8d/3 rounded to a multiple of 8 in gated-ngpt, 4d elsewhere (SwiGLU in all but one).

        8d/3 gives the SwiGLU's three matrices the size of two matrices of width 4d. Where 3 divides d it is exact.
        """
        if self.arch != "gated-ngpt":
            return 4 * self.n_embd
        return 8 * self.n_embd // 3 if self.n_embd % 3 == 0 else 8 * round(self.n_embd / 3)

    @property
    def on_sphere(self) -> bool:
        """Whether weights live on the unit hypersphere."""
        return self.arch != "gpt"


def default_tokenizer(data: str) -> Literal["bytes", "gpt2", "patches"]:
    """Patches of cells for automata, GPT-2 tokens where the data already are GPT-2 tokens, bytes elsewhere."""
    if data.partition(":")[0] == "nca":
        return "patches"
    path = Path(data)
    shards = path.suffix == ".bin" or (os.path.isdir(path) and any(path.glob("*.bin")))  # is_dir raises on long names
    return "gpt2" if data == "fineweb10b" or shards else "bytes"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the tokens come from."""

    data: str = "stdlib"
    """stdlib, fineweb10b, hf:NAME, a .txt, .jsonl, .parquet or .bin file or a folder of them; nca for automata,
    nca:states=4,grid=8 for others, with any of the fields in ngpt/data/cellular.py"""
    tokenizer: Literal["auto", "bytes", "gpt2", "patches"] = "auto"
    """auto: gpt2 for fineweb10b and .bin shards, patches for nca, bytes for everything else"""
    shards: int = 4
    """training shards of fineweb10b to use, 100M tokens each"""

    def __post_init__(self) -> None:
        _require_positive(self, "shards")
        require(bool(self.data), "--data is empty")
        automata = default_tokenizer(self.data) == "patches"
        require(
            self.tokenizer == "auto" or (self.tokenizer == "patches") == automata,
            f"--tokenizer {self.tokenizer} cannot read --data {self.data}",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer of the hidden matrices; AdamW always moves embeddings, head, gates and scalars."""

    optimizer: Literal["adam", "muon"] = "muon"
    """what moves the hidden matrices"""
    lr: float = 0.03
    """learning rate of the hidden matrices; for Muon the length of a step of a unit row of the polar factor"""
    aux_lr: float = 0.005
    """AdamW learning rate of everything else; the same in every arm unless --aux-lr-ratio ties it to --lr"""
    aux_lr_ratio: float | None = None
    """if given, the rate of everything else is this times --lr, and --aux-lr is not used"""
    momentum: float = 0.95
    """Muon's momentum, as an exponential moving average"""
    momentum_start: float | None = None
    """if given, momentum ramps linearly from here to --momentum"""
    momentum_warmup_steps: int = 300
    """length of the momentum ramp in steps"""
    nesterov: bool = True
    """Muon's input is (1 - mu) G + mu M instead of M"""
    orthogonalizer: Orthogonalizer = "newton-schulz"
    """how the polar factor is computed"""
    ns_steps: int = 5
    """iterations of the orthogonalizer"""
    polar_dtype: Precision = "float32"
    """precision of the orthogonalizer's products; that of --dtype if not given"""
    adjust_lr_fn: Literal["none", "original", "match_rms_adamw"] = "original"
    """factor on Muon's step by matrix shape; original: sqrt(max(1, m/n)); match_rms_adamw: 0.2 sqrt(max(m, n))"""
    match_step: MatchStep = "none"
    """size of Muon's step before cautious decay; rms: the Frobenius norm of an exact polar factor; angle: --lr is each
    matrix's mean rotation in radians"""
    geodesic_muon: GeodesicAngle | None = None
    """rotate each unit vector along its geodesic, by the angle --lr, or --lr times the length of its tangent update;
    only embedding and head are then projected"""
    tangent: Tangent = "none"
    """where Muon's update loses its part along the unit vectors: before the orthogonalizer, after it, both"""
    momentum_transport: Transport = "none"
    """how Muon's momentum follows its unit vectors; project: into the new tangent space; parallel: its tangent part
    along the geodesic; rotate: all of it, the part along the vectors too"""
    normuon: NorMuonAxis | None = None
    """NorMuon's variance reduction, a value for each row or column, over the shorter side; rows: the paper's form"""
    beta2: float = 0.95
    """decay of NorMuon's second moment"""
    weight_decay: float = 0.0
    """decoupled weight decay of the hidden matrices; a step takes --lr times it"""
    cautious_wd: bool = False
    """weight decay only of the entries that Muon's update does not already lengthen"""
    nan_fallback: Literal["normuon"] | None = None
    """where the run would end as diverged, go on once: from the weights before the latest step that was made, with
    NorMuon and fresh momentum"""
    lazy_proj_freq: int = 7
    """project to the sphere every so many steps whatever a linear step has moved"""
    adam_beta1: float = 0.9
    """AdamW's first-moment decay"""
    adam_beta2: float = 0.95
    """AdamW's second-moment decay"""
    schedule: Schedule = "constant"
    """shape of the learning rate over the run, for all parameters; wsd is warmup-stable-decay"""
    warmup_steps: int = 0
    """linear warm-up in steps"""
    decay_share: float = 0.2
    """wsd only: share of the run spent in the final linear decay"""
    lr_floor: float = 0.0
    """share of the peak rate at which the schedule ends"""
    grad_clip: float | None = None
    """clip the global gradient norm to this; none: no clipping, so that no matrix scales another one's gradient"""

    def __post_init__(self) -> None:
        _require_positive(self, "lr", "aux_lr", "aux_lr_ratio", "ns_steps", "lazy_proj_freq")
        _require_positive(self, "momentum_warmup_steps", "grad_clip")
        _require_share(self, "momentum", "momentum_start", "beta2", "adam_beta1", "adam_beta2", "lr_floor")
        require(0 < self.decay_share <= 1, f"--decay-share must lie in (0, 1]: {self.decay_share}")
        require(0 <= self.warmup_steps < 2**63, f"--warmup-steps must not be negative: {self.warmup_steps}")
        require(0 <= self.weight_decay < 2**63, f"--weight-decay must not be negative: {self.weight_decay}")
        require(
            self.orthogonalizer != "you" or self.ns_steps == 5,
            f"--orthogonalizer you is a schedule of exactly 5 iterations, not --ns-steps {self.ns_steps}",
        )
        require(
            self.geodesic_muon is not None or self.lr * self.weight_decay < 1,
            f"--weight-decay {self.weight_decay} times --lr {self.lr} must be below 1: a step would turn weights over",
        )
        for meaningless, why in self._meaningless() if self.optimizer == "muon" else []:
            require(not meaningless, why)

    def _meaningless(self) -> list[tuple[bool, str]]:
        """Combinations in which a flag would do nothing, each with the reason."""
        geodesic, decays = self.geodesic_muon is not None, self.weight_decay > 0
        mixes, fixed_angle = decays and self.cautious_wd, self.fixed_angle
        return [
            (
                self.match_step != "none" and fixed_angle,
                f"--match-step {self.match_step} has no effect with --geodesic-muon lr: its angle is --lr already",
            ),
            (
                self.tangent in ("after", "both") and geodesic and not mixes,
                f"--tangent {self.tangent} has no effect of its own with --geodesic-muon, which moves only along the "
                "tangent part of the update: --tangent before is left to choose",
            ),
            (
                geodesic and decays and not self.cautious_wd,
                "--weight-decay has no effect with --geodesic-muon: decay of all entries points along the unit "
                "vectors; with --cautious-wd it has a direction",
            ),
            (
                self.nan_fallback is not None and self.normuon is not None,
                f"--nan-fallback {self.nan_fallback} has no effect with --normuon: it would switch to what is there",
            ),
            (self.cautious_wd and not decays, "--cautious-wd has no effect without --weight-decay"),
            (
                self.match_step == "rms" and self.orthogonalizer == "svd",
                "--match-step rms has no effect with --orthogonalizer svd: an exact polar factor has that norm",
            ),
            (
                self.momentum_transport == "rotate" and self.tangent in ("before", "both"),
                f"--momentum-transport rotate has no effect of its own with --tangent {self.tangent}, which drops what "
                "it keeps: --momentum-transport parallel is the same step",
            ),
            (
                self.momentum_transport != "none" and self.momentum == 0 and not self.momentum_start,
                "--momentum-transport has no effect with --momentum 0",
            ),
        ]

    @property
    def fixed_angle(self) -> bool:
        """Whether the length of an update on a unit vector means nothing: a fixed angle, and no decay to add to it."""
        return self.optimizer == "muon" and self.geodesic_muon == "lr" and not (self.cautious_wd and self.weight_decay)

    @property
    def resolved_aux_lr(self) -> float:
        """AdamW's rate for embeddings, head, gates and scalars."""
        return self.aux_lr if self.aux_lr_ratio is None else self.aux_lr_ratio * self.lr


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how often, in which precision."""

    steps: int = 200
    """optimizer steps"""
    time_budget_seconds: float | None = None
    """if given, stop after this much training time; start-up, each process's first step, and measuring do not count"""
    clock: Literal["wall", "cpu"] = "wall"
    """what tells training time; cpu: the time of this process alone, on one CPU thread, whatever runs beside it"""
    batch_size: int = 8
    """sequences a step"""
    eval_tokens: int = 5120
    """validation tokens, in windows spread evenly over the validation split, the same for every run"""
    overfit_windows: int | None = None
    """if given, train on so many windows only, spread evenly over the training split, and validate on the same"""
    eval_every: int = 40
    """steps between validations; there is always one at the end"""
    log_every: int = 1
    """steps between lines in metrics.jsonl"""
    telemetry_every: int = 37
    """steps between measurements of rotation, radial share, drift and orthogonality; 0: never. A prime, so
    that no smaller K is always seen at the same phase"""
    max_skipped_in_a_row: int = 10
    """after so many steps in a row without a finite gradient the run ends as diverged, or --nan-fallback acts"""
    dtype: Precision = "float32"
    """precision of the matrix products, also of the orthogonalizer's unless --polar-dtype is given; weights and norms
    are always float32"""
    compile: bool = False
    """let torch.compile make the forward and backward pass: faster on a GPU, after a minute of start-up, and rounded
    differently"""
    init_from: str | None = None
    """a finished run's folder, whose weights (embedding and head excepted) this run starts from"""

    def __post_init__(self) -> None:
        _require_positive(self, "steps", "time_budget_seconds", "batch_size", "eval_tokens", "eval_every", "log_every")
        _require_positive(self, "max_skipped_in_a_row", "overfit_windows")
        _require_at_most(self, batch_size=1_000_000)
        require(0 <= self.telemetry_every < 2**63, f"--telemetry-every must not be negative: {self.telemetry_every}")


NEED_SPHERE: dict[str, set[str | None]] = {
    "geodesic_muon": {None},
    "tangent": {"none"},
    "momentum_transport": {"none"},
    "match_step": {"none", "rms"},
}
"""Fields all of whose values but these need unit vectors."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, whole."""

    preset: str = "tiny"
    """a named configuration, which the other flags change"""
    seed: int = 0
    """fixes initialisation and data order"""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, f"--seed must lie in [0, 2^63): {self.seed}")
        require(
            self.data.data != "fineweb10b" or self.data.tokenizer in ("auto", "gpt2"),
            "--data fineweb10b holds GPT-2 tokens: --tokenizer bytes cannot read it",
        )
        normuon = "short-axis" if self.optim.nan_fallback == "normuon" else self.optim.normuon
        uneven = self.model.arch == "gated-literal" and normuon == "short-axis"  # over columns, on rows
        require(
            normuon is None or not self.optim.fixed_angle or uneven,
            f"--{'normuon' if self.optim.normuon else 'nan-fallback normuon'} has next to no effect with "
            "--geodesic-muon lr: a fixed angle cancels a factor on a unit vector, and along the other axis a polar "
            "factor is even but for its own error; --geodesic-muon lr-norm keeps it",
        )
        for name, plain in NEED_SPHERE.items():
            value = getattr(self.optim, name)
            require(
                self.model.on_sphere or value in plain,
                f"{flag_name(name)} {value} needs unit vectors, which --arch {self.model.arch} has none of",
            )


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a run is carried out. Nothing here changes its result, beyond the rounding of another device."""

    out: Path = Path("runs")
    """folder of run folders"""
    name: str = ""
    """a name for people, kept in the record"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if there is one"""
    threads: int = 0
    """CPU threads; 0: one a core. A resumed run keeps the number it started with"""
    save_every: int = 100
    """steps between checkpoints"""
    resume: bool = False
    """continue a killed run from its checkpoint"""
    cuda_graphs: bool = True
    """on a GPU, replay each step from CUDA graphs; the kernels are the same without"""
    keep_weights: bool = True
    """leave the final weights in the run folder"""
    parallel: Literal["replicas", "fsdp"] = "replicas"
    """started by torchrun, where the weights lie: all of them on every rank, or sharded over the ranks"""
    progress: bool = True
    """show a progress bar on standard error"""

    def __post_init__(self) -> None:
        _require_positive(self, "save_every")
        require(self.threads >= 0, f"--threads must not be negative: {self.threads}")


SECTIONS = {"model": ModelConfig, "data": DataConfig, "optim": OptimConfig, "train": TrainConfig}


def flatten(config: RunConfig) -> dict[str, Any]:
    """All fields of all sections by name."""
    flat: dict[str, Any] = {"preset": config.preset, "seed": config.seed}
    for section in SECTIONS:
        flat |= dataclasses.asdict(getattr(config, section))
    return flat


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type; a whole number is also a float."""
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        kind = typing.get_args(hint)[1]
        return type(value) is dict and all(kind is Any or is_a(one, kind) for one in value.values())
    if typing.get_args(hint):  # a union
        return any(is_a(value, kind) for kind in typing.get_args(hint))
    return type(value) is hint or (hint is float and type(value) is int)


def from_dict(content: dict[str, Any]) -> RunConfig:
    """The inverse of `dataclasses.asdict(config)`; unknown or missing fields raise InputError."""
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
