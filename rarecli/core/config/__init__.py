"""The files that describe a training, a network and a plan, checked as they are read."""
