"""Atomic outputs, locks, journals, shards, worker processes, ranks and signals."""
