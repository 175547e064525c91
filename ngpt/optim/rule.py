"""The update rule of SimpleMuon, top to bottom: what happens to the matrices before and after their polar factor.

    before_polar    1  tangent, gradient    G loses its part along each unit vector
                    2  momentum             M <- mu M + (1 - mu) G
                    3  Nesterov look-ahead  X = (1 - mu) G + mu M; without `nesterov` X = M
                    4  tangent, before      X loses its part along each unit vector
    polar           5  polar factor         O = polar(X), all matrices of a shape at once (`ngpt.polar.orthogonalize`)
    refine          6  match "rms"          O gets the norm |O|_F = sqrt(min(m, n))
                    7  NorMuon              rows or columns of O are divided by the root of their second moment V
    apply           8  shape factor         f = `adjust_lr_fn`; with match "angle" O is scaled instead
                    9  tangent, after       O loses its part along each unit vector
                   10  decay                W <- W (1 - lr wd), with `cautious_wd` only where O W >= 0; with
                                            `geodesic` f O gains wd W at those entries instead
                   11  move                 W <- W - lr f O, or with `geodesic` each unit vector rotates by an angle;
                                            none by more than `max_angle`
                   12  momentum transport   M follows the unit vectors to the new W

`before_polar`, `refine` and `apply` are the functions below; SimpleMuon calls the polar factor between the first two.
Each of their lines is one of these steps, a function of `ngpt.optim.steps` or `ngpt.sphere`. W, O, M and X are stacks
(..., m, n) of matrices of one shape, and `o` is a group of SimpleMuon, whose options are read at every step. Lazy
projection comes after step 12, every K steps, and is `ngpt.optim.projection`.

For sharded matrices (`ngpt.optim.sharded_stack`), `look_ahead` and a plain `apply`, which act on single entries, run on
the shards. Everything else runs on gathered matrices.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ngpt import sphere
from ngpt.optim import steps

Options = Mapping[str, Any]
State = Mapping[str, Tensor]


def stacked_tangents(W: Sequence[Tensor], G: Iterable[Tensor], *, dim: int) -> Tensor:
    """Return the tangential parts of N matrices G at N matrices W, (N, m, n)."""
    return sphere.tangent(torch.stack(list(W)), G if isinstance(G, Tensor) else torch.stack(list(G)), dim=dim)


def before_polar(
    W: Sequence[Tensor], G: Iterable[Tensor], M: Iterable[Tensor], o: Options, *, out: Tensor
) -> list[Tensor]:
    """Write the input of the polar factor to `out` and update M in place; G is never written to.

    W, G, M: N matrices (m, n) each; out: (N, m, n). Returns the Frobenius norms of the matrices in `out` if a kernel
    has computed them on the way, else an empty list.
    """
    norms = look_ahead(W, G, M, o, out=out)
    return norms if tangent_input(W, out, o) is None else []


def look_ahead(
    W: Sequence[Tensor], G: Iterable[Tensor], M: Iterable[Tensor], o: Options, *, out: Iterable[Tensor],
    tangents: Callable[..., Iterable[Tensor]] = stacked_tangents,
) -> list[Tensor]:  # fmt: skip
    """Apply steps 1 to 3 to each matrix, or to shards of matrices; arguments and result as in `before_polar`.

    tangents: W, G -> the tangential part of G, where that takes more than these shards.
    """
    if o["tangent"] == "gradient":
        G = tangents(W, G, dim=sphere_axis(o))
    mu, nesterov = o["momentum"], o["nesterov"]
    norms = [
        steps.momentum_and_look_ahead(M_i, G_i, mu, nesterov=nesterov, out=X_i)
        for M_i, G_i, X_i in zip(M, G, out, strict=True)
    ]
    return [norm for norm in norms if norm is not None]


def tangent_input(W: Sequence[Tensor], X: Tensor, o: Options) -> Tensor | None:
    """Apply step 4 to the polar factor's input X (N, m, n) in place; return it if that changed it."""
    if o["tangent"] not in ("before", "both") or not len(X):
        return None
    return X.copy_(stacked_tangents(W, X, dim=sphere_axis(o)))


def refine(O: Tensor, state: State, o: Options) -> Tensor:
    """Apply steps 6 and 7 and return the new O.

    O: (..., m, n). state: `second_momentum_buffer` with `normuon`, updated in place.
    """
    if o["match_step"] == "rms":
        O = steps.match_rms(O)
    if o["normuon"] is not None:
        V = state["second_momentum_buffer"]
        O, V_new = steps.variance_reduction(O, V, o["beta2"])
        V.copy_(V_new)
    return O


def apply(W: Tensor, O: Tensor, state: State, o: Options, *, shape: torch.Size | None = None) -> None:
    """Apply steps 8 to 12: update W in place.

    W, O: (..., m, n). state: `momentum_buffer` with `momentum_transport`, updated in place. shape: of a whole matrix,
    where W and O are shards, which only options that act on single entries allow.
    """
    dim, lr, wd = sphere_axis(o), o["lr"], o["weight_decay"]
    W_before = W.clone() if o["momentum_transport"] != "none" or o["max_angle"] is not None else W
    factor = steps.shape_factor(shape or O.shape, o["adjust_lr_fn"])
    if o["match_step"] == "angle":
        O, factor = steps.match_angle(W, O, dim=dim), 1.0
    if o["tangent"] in ("after", "both"):
        O = sphere.tangent(W, O.to(W.dtype), dim=dim)
    mask = steps.decay_mask(W, O) if o["cautious_wd"] else None
    if o["geodesic"] is None:
        steps.linear_move(steps.decay(W, lr, wd, mask), O, lr * factor, out=W)
    else:  # decay is a part of the direction, as it would leave the sphere by itself
        O, factor = (O, factor) if mask is None else (steps.with_decay(factor * O.to(W.dtype), W, wd, mask), 1.0)
        steps.geodesic_move(W, O, lr, o["geodesic"], factor=factor, dim=dim, out=W)
    if o["max_angle"] is not None:
        W.copy_(steps.cap_angle(W_before, W, o["max_angle"], dim=dim))
    if o["momentum_transport"] != "none":
        M = state["momentum_buffer"]
        M.copy_(steps.transport(M, W_before, W, o["momentum_transport"], dim=dim))


def sphere_axis(o: Options) -> int:
    """Return the dimension of the unit vectors counted from the end; -1 where there are none and nothing reads it."""
    dim: int | None = o["sphere_dim"]
    return -1 if dim is None else dim if dim < 0 else dim - 2
