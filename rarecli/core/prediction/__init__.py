"""Predict the labels of scans with trained models, one scan or many."""
