"""Codes of anatomical structures for DICOM segmentations: segments.yaml."""
