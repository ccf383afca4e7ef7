"""Train a network on a prepared dataset.

Start with `train.py`, which starts a training. `loop.py` runs its epochs, `learner.py` takes one step.
"""
