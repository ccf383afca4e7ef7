"""`rare info` and `rare models`: describe files, folders and models."""
