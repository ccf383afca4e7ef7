"""Readers and writers of scan formats besides single NIfTI files."""
