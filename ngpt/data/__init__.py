"""Tokens and batches: corpora and shards become one memory-mapped `Corpus`; `Batches` is a pure function of it."""
