"""Measure latency, memory and work of a model on this machine, and report the results."""
