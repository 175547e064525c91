"""The figures of a report, in one style; a method has the same color in every report."""

from ngpt.campaign.report.figures.draw import draw_figures

__all__ = ["draw_figures"]
