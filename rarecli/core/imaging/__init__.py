"""Scans as arrays with a geometry: reading, resampling, preprocessing, routing, and back to the grid of the scan."""
