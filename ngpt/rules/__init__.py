"""Published update rules, one file each: formula, source, and how the rule here differs from it.

Each is a class for `--optimizer ngpt.rules:Nora`, with its arguments as `--optimizer-args axis=rows`. W is a matrix
(m, n), G its gradient, M its momentum, X the momentum or its look-ahead, and D what is subtracted, lr times. "Vector"
means what nGPT keeps at length 1: a row or, in the two output projections, a column. w is one of the vectors of W, and
X_w stands in the place of w in X. `ngpt.rules.base` holds what they share.
"""

from ngpt.rules.angular_muown import AngularMuown
from ngpt.rules.base import MatrixRule
from ngpt.rules.ema_nesterov import EmaNesterov
from ngpt.rules.kaon import Kaon
from ngpt.rules.muon_h import MuonH
from ngpt.rules.muon_sphere import MuonSphere
from ngpt.rules.nora import Nora
from ngpt.rules.rmnp import RMNP
from ngpt.rules.signum import Signum
from ngpt.rules.two_buffer_muon import TwoBufferMuon

__all__ = [
    "RMNP", "AngularMuown", "EmaNesterov", "Kaon", "MatrixRule", "MuonH", "MuonSphere", "Nora", "Signum",
    "TwoBufferMuon",
]  # fmt: skip
