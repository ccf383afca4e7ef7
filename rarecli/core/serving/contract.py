"""The interface between a client and the router: the names of the tensors, in one place for both sides.

Inputs
  image          FP32 (C, X, Y, Z)   intensities as in the file, RAS axes, C-contiguous
  spacing_mm     FP64 (3)            along X, Y, Z
  entry          INT32 (3)           optional: forces an entry, the depth of each axis
Outputs; (X', Y', Z') is the routed grid, not padded
  labels         (X, Y, Z)           on the grid of the image: values of the training labels, in the smallest of UINT8, UINT16, INT32
  entry          INT32 (3)           the depth where each axis enters
  reason         BYTES (1)           why this entry was chosen
  grid_spacing_mm FP64 (3)           of that entry
  zoom           FP64 (3)            the scan's spacing divided by the routed grid's; 1 for an axis that was not resampled
  probabilities  FP32 (K, X', Y', Z')  computed only if requested
  warnings       BYTES (n)           how the scan differs from the training scans; computed only if requested
"""

from rarecli.core.config.geometry import entry_name
from rarecli.core.types import Entry

IMAGE = "image"
SPACING = "spacing_mm"
ENTRY = "entry"
LABELS = "labels"
REASON = "reason"
GRID_SPACING = "grid_spacing_mm"
ZOOM = "zoom"
PROBABILITIES = "probabilities"
WARNINGS = "warnings"


def entry_model(name: str, entry: Entry) -> str:
    """Return the name of an entry's model in the repository of the router `name`."""
    return f"{name}_{entry_name(entry)}"
