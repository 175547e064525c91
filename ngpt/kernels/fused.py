"""The elementwise steps as Triton kernels, under the names they have in `ngpt.kernels.twins`."""

from ngpt.kernels.momentum import momentum_step_ as momentum_step_
from ngpt.kernels.residual import residual_step as residual_step
from ngpt.kernels.vectors import geodesic_move_ as geodesic_move_
from ngpt.kernels.vectors import project_ as project_
