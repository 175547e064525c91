"""One run: trainer, evaluation, telemetry, checkpoint and the record that a run leaves behind."""
