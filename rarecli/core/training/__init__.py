"""The parts of a training, which `rarecli/core/training/train.py` puts together.

schedule   what every step trains on, and its learning rate
learner    one step: losses, gradients, optimiser, averaged weights
state      all that goes on from step to step, in a checkpoint and back
validation Dice of the averaged weights
signals    being asked to stop
record     the log, what is said of an epoch, the picture
launch     several processes on this machine
"""
