"""Graphs rewritten into operators that all engines compute well."""
