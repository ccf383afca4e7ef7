"""Suites of `rare benchmark`, as JSON. Described in `rarecli/core/benchmarking/suites.py`."""
