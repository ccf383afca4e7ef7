"""What a client and the router say to each other: the names of the tensors. Plain strings, in one place for both sides.

In
  image          FP32 (C, X, Y, Z)   intensities as they are in the file, axes RAS, C-contiguous
  spacing_mm     FP64 (3)            along X, Y, Z
  depth          INT32 (1)           optional: forces a depth
Out; (X', Y', Z') is the routed grid, not padded
  labels         (X, Y, Z)           of the image's voxels: values of the training labels, in the smallest of UINT8, UINT16, INT32
  depth          INT32 (1)
  reason         BYTES (1)           why this depth
  grid_spacing_mm FP64 (3)           of that depth
  zoom           FP64 (3)            spacing over the routed grid's; 1 where nothing was resampled
  probabilities  FP32 (K, X', Y', Z')  computed only if asked for
  warnings       BYTES (n)           in what the scan is unlike the training scans; computed only if asked for
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
    """The name of a depth's model in the repository of the router `name`."""
    return f"{name}_depth{depth}"
