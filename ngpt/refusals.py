"""Refusals and their reasons: one list, which the command line, the configurations and `SimpleMuon` check. No torch.

A refusal is a condition on named options and a reason. It applies wherever all the options it reads are known: within
one section of the configuration, in a whole run, or in a parameter group of SimpleMuon. What single fields declare
(`ngpt.config.option`: bounds, needs) becomes refusals of the same form; `REFUSALS` holds the rest.
"""

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ngpt.errors import require
from ngpt.foreign import is_class

Bound = tuple[Callable[[Any], bool], str]
POSITIVE: Bound = (lambda value: 0 < value < 2**63, "must be positive and below 2**63")
NOT_NEGATIVE: Bound = (lambda value: 0 <= value < 2**63, "must not be negative, and below 2**63")
FRACTION: Bound = (lambda value: 0 <= value < 1, "must lie in [0, 1)")
RATIO: Bound = (lambda value: 1e-6 <= value <= 1e6, "must lie in [1e-06, 1e+06]")
SHARE: Bound = (lambda value: 0 <= value <= 1, "must lie in [0, 1]")
GIVEN = object()
"""Stands in `needs` for any value of the other option but None"""


def or_word(word: str, bound: Bound) -> Bound:
    """Return the bound of a number in whose place one word may stand."""
    within, text = bound
    return (lambda value: value == word or (isinstance(value, int | float) and within(value)), f"{text}, or {word}")


def at_most(largest: int) -> Bound:
    """Return an upper bound on a size; a larger one is a typing error that would end in hours of allocation."""
    return (lambda value: value <= largest, f"must be at most {largest:,}")


@dataclass(frozen=True)
class Refusal:
    """A condition under which a combination of options is refused."""

    reads: tuple[str, ...]
    """options by field name, in the order of the condition's arguments"""
    condition: Callable[..., bool]
    reason: str
    """a template: {lr} is an option's name, {lr=} its name and value, {=lr} its value, {lr=0.1} its name and 0.1"""
    drop_in: bool = False
    """whether SimpleMuon refuses it too: it makes a step impossible, rather than an option useless"""
    muon_only: bool = False
    """whether it applies to runs with Muon only"""
    given: str | None = None
    """an option; the refusal applies only where that one was given explicitly"""


def first_refusal(
    values: Mapping[str, Any], refusals: Iterable[Refusal], name: Callable[..., str], given: Collection[str] = ()
) -> str | None:
    """Return the reason of the first refusal that applies to `values`, options by field name; None if none does.

    name: renders an option, or an option and a value. given: options that were given explicitly.
    """

    def fill(place: re.Match[str]) -> str:
        option, equals, value = place.groups()
        return name(option, *([value or values[option]] if equals else [])) if option else f"{values[value]}"

    for one in refusals:
        about = one.given in (None, *given) and (not one.muon_only or values.get("optimizer") == "muon")
        if about and values.keys() >= {*one.reads} and one.condition(*(values[option] for option in one.reads)):
            return re.sub(r"{(\w*)(=?)([^}]*)}", fill, one.reason)
    return None


def check(values: Mapping[str, Any], *kinds: type, given: Collection[str] = ()) -> None:
    """Raise InputError if `values`, the fields of the dataclasses `kinds`, are refused; the message names flags."""
    reason = first_refusal(values, refusals_of(*kinds), flag_name, given)
    require(reason is None, reason or "")


def flag_name(option: str, *value: Any) -> str:
    """Return `--n-layer` for n_layer, or `--n-layer 3` with a value."""
    return " ".join(["--" + option.replace("_", "-"), *("none" if one is None else f"{one}" for one in value)])


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the values of a Literal type, and then None if the type includes it; () for other types.

    A union of a Literal and a type of numbers has more values than can be listed: () as well.
    """
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if any(typing.get_origin(one) is not Literal and one is not types.NoneType for one in members):
        return ()
    choices = [value for one in members if typing.get_origin(one) is Literal for value in typing.get_args(one)]
    return (*choices, *([None] if choices and types.NoneType in members else []))


def is_automaton(data: str) -> bool:
    """Return whether --data names a cellular automaton."""
    return data.partition(":")[0] == "nca"


@functools.cache
def refusals_of(*kinds: type) -> tuple[Refusal, ...]:
    """Return all refusals: what the fields of the dataclasses `kinds` declare, then `REFUSALS`."""
    return (*(refusal for kind in kinds for refusal in _declared(kind)), *REFUSALS)


def _declared(kind: type) -> Iterator[Refusal]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, facts = field.name, field.metadata
        bounds = list(facts.get("bounds", ()))
        if choices := choices_of(hints[name]):
            bounds.append((choices.__contains__, f"must be one of {', '.join(map(str, choices))}"))
        for within, text in bounds:

            def beyond(value: Any, within: Any = within, optional: bool = field.default is None) -> bool:
                return not (optional and value is None) and not within(value)

            yield Refusal((name,), beyond, f"{{{name}}} {text}: {{={name}}}", drop_in=facts.get("step", False))
        sphere = [("arch", "gpt", "and {arch=} has none"), ("sphere_dim", None, "so give their sphere_dim")]
        for place, missing, text in sphere if facts.get("unit_vectors") else []:

            def lacks(value: Any, at: Any, missing: Any = missing, reads: Any = facts["reads"]) -> bool:
                return reads(value) and at == missing

            yield Refusal((name, place), lacks, f"{{{name}=}} needs unit vectors, {text}", drop_in=True)
        for other, values in facts.get("needs", {}).items():

            def idle(value: Any, values: Any = values) -> bool:
                return value is None if values is GIVEN else value not in values

            beside = f"without {{{other}}}" if values is GIVEN else f"with {{{other}=}}"
            yield Refusal((other,), idle, f"{{{name}}} has no effect {beside}", given=name)


def _refuse(condition: Callable[..., bool], reason: str, **scope: Any) -> Refusal:
    return Refusal(tuple(inspect.signature(condition).parameters), condition, reason, **scope)


_muon = functools.partial(_refuse, muon_only=True)


def _fixed(geodesic_muon: str | None, cautious_wd: bool, weight_decay: float) -> bool:
    """Return whether the length of an update of a unit vector is ignored: a fixed angle, and no decay to add to it."""
    return geodesic_muon == "lr" and not (cautious_wd and weight_decay)


QUINTIC = (3.4445, -4.7750, 2.0315)
"""The coefficients of "newton-schulz" and of torch.optim.Muon, as in `ngpt.polar`"""

_POLAR_DTYPES = ("bfloat16", "float16", "float32", "float64")
_NEXT_TO_NONE = (
    "has next to no effect with {geodesic_muon=}: a fixed angle cancels a factor on a unit vector, and along the other "
    "axis a polar factor is even up to its own error; {geodesic_muon=lr-norm} keeps the factor"
)
# fmt: off
REFUSALS: tuple[Refusal, ...] = (
    # values out of range, or that contradict each other
    _refuse(lambda n_embd, n_head: n_embd % n_head != 0, "{n_embd=} is not divisible by {n_head=}"),
    _refuse(lambda n_embd, n_head: n_embd // n_head < 2, "{n_embd=} leaves fewer than 2 dimensions per head"),
    _refuse(lambda gate_init: abs(gate_init) > 80, "{gate_init} must lie in [-80, 80] for float32: {=gate_init}"),
    _refuse(lambda decay_share: decay_share is not None and not 0 < decay_share <= 1,
            "{decay_share} must lie in (0, 1]: {=decay_share}"),
    _refuse(lambda data: not data, "{data} is empty"),
    _refuse(lambda data, tokenizer: tokenizer != "auto" and (tokenizer == "patches") != is_automaton(data),
            "{tokenizer=} cannot read {data=}"),
    _refuse(lambda data, tokenizer: data == "fineweb10b" and tokenizer not in ("auto", "gpt2"),
            "{data=} holds GPT-2 tokens: {tokenizer=} cannot read it"),
    _refuse(lambda lr: not 0 <= lr < float("inf"), "{lr} must be finite and not negative: {=lr}", drop_in=True),
    _refuse(lambda weight_decay: not 0 <= weight_decay < float("inf"),
            "{weight_decay} must be finite and not negative: {=weight_decay}", drop_in=True),
    _refuse(lambda momentum: not 0 <= momentum < 1, "{momentum} must lie in [0, 1): {=momentum}", drop_in=True),
    _refuse(lambda orthogonalizer, ns_steps: orthogonalizer != "svd" and ns_steps < 1,
            "{ns_steps} must be positive: {=ns_steps}", drop_in=True),
    _refuse(lambda orthogonalizer, ns_steps: orthogonalizer == "you" and ns_steps != 5,
            "{orthogonalizer=} is a schedule of exactly 5 iterations, not {ns_steps=}", drop_in=True),
    _refuse(lambda orthogonalizer, ns_coefficients:
            orthogonalizer != "newton-schulz" and tuple(ns_coefficients) != QUINTIC,
            "{ns_coefficients=} needs {orthogonalizer=newton-schulz}: {=orthogonalizer} has coefficients of its own",
            drop_in=True),
    _refuse(lambda eps: not 0 <= eps < float("inf"), "{eps} must be finite and not negative: {=eps}", drop_in=True),
    _refuse(lambda orthogonalizer, eps: orthogonalizer == "svd" and eps != 0,
            "{eps=} has no effect with {orthogonalizer=}, which divides by no norm; {eps=0.0} goes with it",
            drop_in=True),
    _refuse(lambda geodesic_muon, lr, weight_decay: geodesic_muon is None and lr * weight_decay >= 1,
            "{weight_decay=} times {lr=} must be below 1: a step would reverse the weights"),
    _refuse(lambda sphere_dim: sphere_dim not in (None, 0, 1, -1, -2),
            "{sphere_dim} must be 0, 1, -1, -2 or None: {=sphere_dim}", drop_in=True),
    _refuse(lambda adjust_lr_fn: adjust_lr_fn not in (None, "none", "original", "match_rms_adamw"),
            "unknown {adjust_lr_fn=}", drop_in=True),
    _refuse(lambda polar_dtype: str(polar_dtype).removeprefix("torch.") not in _POLAR_DTYPES,
            "{polar_dtype} must be one of " + f"{', '.join(_POLAR_DTYPES)}: " + "{=polar_dtype}", drop_in=True),
    # classes that the user names
    _refuse(lambda optimizer, optimizer_args: optimizer_args and not is_class(optimizer),
            "{optimizer_args} has no effect with {optimizer=}, whose options are flags"),
    _refuse(lambda optimizer, weight_decay: weight_decay and is_class(optimizer),
            "{weight_decay} has no effect with {optimizer=}; if the class has decay, {optimizer_args} set it"),
    _refuse(lambda optimizer, match_step: optimizer != "muon" and match_step == "rms",
            "{match_step=} has no effect with {optimizer=}; {match_step=angle} has one"),
    _refuse(lambda geodesic_muon, constraint: geodesic_muon is not None and constraint != "vectors",
            "{constraint=} has no effect with {geodesic_muon}, whose step keeps unit vectors"),
    # options of Muon that would do nothing, or nothing of their own
    _muon(lambda max_angle, geodesic_muon: max_angle is not None and geodesic_muon == "lr",
          "{max_angle} has no effect of its own with {geodesic_muon=}: every unit vector rotates by {lr}"),
    _muon(lambda match_step, geodesic_muon, cautious_wd, weight_decay:
          match_step != "none" and _fixed(geodesic_muon, cautious_wd, weight_decay),
          "{match_step=} has no effect with {geodesic_muon=}: the angle is already {lr}"),
    _muon(lambda tangent, geodesic_muon, cautious_wd, weight_decay:
          tangent in ("after", "both") and geodesic_muon is not None and not (cautious_wd and weight_decay),
          "{tangent=} has no effect of its own with {geodesic_muon}, which moves only along the tangent part of the "
          "update; {tangent=before} has one"),
    _muon(lambda geodesic_muon, weight_decay, cautious_wd:
          geodesic_muon is not None and weight_decay > 0 and not cautious_wd,
          "{weight_decay} has no effect with {geodesic_muon}: decay of all entries points along the unit vectors; with "
          "{cautious_wd} it has a direction", drop_in=True),
    _muon(lambda nan_fallback, normuon: nan_fallback is not None and normuon is not None,
          "{nan_fallback=} has no effect with {normuon}: it would switch on what is on already"),
    _muon(lambda cautious_wd, weight_decay: cautious_wd and not weight_decay,
          "{cautious_wd} has no effect without {weight_decay}"),
    _muon(lambda match_step, orthogonalizer: match_step == "rms" and orthogonalizer == "svd",
          "{match_step=} has no effect with {orthogonalizer=}: an exact polar factor of full rank has that norm"),
    _muon(lambda momentum_transport, tangent: momentum_transport == "rotate" and tangent in ("before", "both"),
          "{momentum_transport=} has no effect of its own with {tangent=}, which drops what it keeps: "
          "{momentum_transport=parallel} is the same step"),
    _muon(lambda tangent, momentum_transport: tangent == "gradient" and momentum_transport in ("parallel", "rotate"),
          "{tangent=} has no effect of its own with {momentum_transport=}, which keeps the momentum tangent: "
          "{tangent=before} with {momentum_transport=parallel} is the same step"),
    _muon(lambda momentum_transport, momentum, momentum_start:
          momentum_transport != "none" and momentum == 0 and not momentum_start,
          "{momentum_transport} has no effect with {momentum=}"),
    _muon(lambda arch, normuon, geodesic_muon, cautious_wd, weight_decay:  # in gated-literal over columns, on unit rows
          normuon is not None and (arch, normuon) != ("gated-literal", "short-axis")
          and _fixed(geodesic_muon, cautious_wd, weight_decay), "{normuon} " + _NEXT_TO_NONE),
    _muon(lambda arch, nan_fallback, geodesic_muon, cautious_wd, weight_decay:
          nan_fallback == "normuon" and arch != "gated-literal" and _fixed(geodesic_muon, cautious_wd, weight_decay),
          "{nan_fallback=} " + _NEXT_TO_NONE),
    # options that do nothing beside another one; they have defaults, so only giving them is refused
    _refuse(lambda normuon, nan_fallback: normuon is None and nan_fallback is None,
            "{beta2} has no effect without {normuon} or {nan_fallback=normuon}", given="beta2"),
    _refuse(lambda overfit_windows: overfit_windows is not None,
            "{eval_tokens} has no effect with {overfit_windows}: validation uses all of them", given="eval_tokens"),
    _refuse(_fixed, "{adjust_lr_fn} has no effect with {geodesic_muon=}: every unit vector rotates by {lr}",
            given="adjust_lr_fn"),
    _refuse(lambda match_step: match_step == "angle",
            "{adjust_lr_fn} has no effect with {match_step=}: a matrix's mean rotation is {lr} whatever its shape",
            given="adjust_lr_fn"),
    _refuse(lambda track, track_group: track is None and track_group is not None,
            "{track_group} has no effect without {track}"),
    _refuse(lambda orthogonalizer: orthogonalizer == "svd", "{ns_steps} has no effect with {orthogonalizer=}",
            given="ns_steps"),
)
"""Refusals beyond what one field declares, in the order in which they are checked."""
# fmt: on
