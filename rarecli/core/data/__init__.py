"""Datasets of labelled scans: finding the cases, planning, and preparing them for training."""
