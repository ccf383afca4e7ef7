"""Datasets of labelled scans: find the cases, plan the preprocessing, prepare them for training."""
