"""Work as processes and files: whole outputs, locks, journals, shards, workers and signals."""
