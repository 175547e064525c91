"""The models: every parameter has a role and, on the sphere, an axis of unit vectors (`roles`)."""

from ngpt.model.build import build_model as build_model
