"""Suites of `rare benchmark`, one JSON file each, described in `rarecli/core/benchmarking/suites.py`."""
