"""Convert files of the released RARE-UNet: checkpoints into runs, .pt cases into labelled datasets.

`upstream.py` reads the files, `convert.py` writes the runs and datasets.
"""
