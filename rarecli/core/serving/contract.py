"""The interface between a client and the router: the names of the tensors, in one place for both sides.

Inputs
  image          FP32 (C, X, Y, Z)   intensities as in the file, RAS axes, C-contiguous
  spacing_mm     FP64 (3)            along X, Y, Z
  depth          INT32 (1)           optional: forces a depth
Outputs; (X', Y', Z') is the routed grid, not padded
  labels         (X, Y, Z)           on the grid of the image: values of the training labels, in the smallest of UINT8, UINT16, INT32
  depth          INT32 (1)           the depth where the scan enters
  reason         BYTES (1)           why this depth was chosen
  grid_spacing_mm FP64 (3)           of that depth
  zoom           FP64 (3)            the scan's spacing divided by the routed grid's; 1 for an axis that was not resampled
  probabilities  FP32 (K, X', Y', Z')  computed only if requested
  warnings       BYTES (n)           how the scan differs from the training scans; computed only if requested
"""

IMAGE = "image"
SPACING = "spacing_mm"
DEPTH = "depth"
LABELS = "labels"
REASON = "reason"
GRID_SPACING = "grid_spacing_mm"
ZOOM = "zoom"
PROBABILITIES = "probabilities"
WARNINGS = "warnings"


def depth_model(name: str, depth: int) -> str:
    """Return the name of a depth's model in the repository of the router `name`."""
    return f"{name}_depth{depth}"
