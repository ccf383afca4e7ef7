"""Validated models of the files that describe a training, a network and a plan."""
