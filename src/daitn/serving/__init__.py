"""Serving: what an engine promises, how queries become batches, and what a model needs of a host. No I/O, no torch."""
