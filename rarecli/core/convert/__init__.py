"""Checkpoints of the authors' code as run folders of rare."""
