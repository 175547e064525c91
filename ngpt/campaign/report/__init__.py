"""Reports, from an analysis to what people read: figures, the report, and the index of all reports."""
