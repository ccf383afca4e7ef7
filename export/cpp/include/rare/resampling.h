#pragma once

#include <vector>

#include "rare/image.h"

namespace rare {

struct ResamplingRule {
  double min_box_voxels = 0;
  double max_step = 0;    ///< most old voxels that a new voxel may span along an axis, and most new voxels that an old one may become
  double max_growth = 0;  ///< most new voxels per old voxel
};

/// Returns the size of the new grid: size * zoom (old spacing / new spacing), rounded half up, at least 1.
/// Throws Error (data) beyond the rule's bounds and for more than 2^30 voxels; the spacing or its unit is then wrong.
Shape resampled_shape(const Shape& shape, const Triple& zoom, const ResamplingRule& rule);

/// Resamples an image to a grid with spacing old / zoom: means over boxes of at least `rule.min_box_voxels`. Zoom 1 keeps an axis.
/// `goal` is the size of the new grid if it is known, e.g. when resampling back; both grids have the same centre in any case.
Image resample(Image image, const Triple& zoom, const Shape& goal, const ResamplingRule& rule);
Image resample(Image image, const Triple& zoom, const ResamplingRule& rule);

/// Returns, for each of `size` voxels of the old grid, the voxel of the new grid with the nearest centre.
std::vector<std::size_t> nearest_indices(std::size_t size, std::size_t new_size, double zoom);

}  // namespace rare
