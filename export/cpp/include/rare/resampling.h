#pragma once

#include <vector>

#include "rare/image.h"

namespace rare {

struct ResamplingRule {
  double min_box_voxels = 0;
  double max_step = 0;    ///< most old voxels along an axis that one new voxel may span, and most new ones that an old one may become
  double max_growth = 0;  ///< most new voxels for each old one
};

/// Size of the new grid: size * zoom (old spacing over new), rounded half up, at least 1.
/// Throws Error (data) beyond the rule's bounds and for more than 2^30 voxels: the spacing or its unit is wrong then.
Shape resampled_shape(const Shape& shape, const Triple& zoom, const ResamplingRule& rule);

/// Bring an image to a grid of spacing old / zoom: means over boxes of at least `rule.min_box_voxels`. An axis of zoom 1 stays.
/// `goal` is the new grid's size if it is known, as on the way back; both grids have one middle in any case.
Image resample(Image image, const Triple& zoom, const Shape& goal, const ResamplingRule& rule);
Image resample(Image image, const Triple& zoom, const ResamplingRule& rule);

/// For each of `size` voxels of the old grid: the voxel of the new grid whose middle is nearest.
std::vector<std::size_t> nearest_indices(std::size_t size, std::size_t new_size, double zoom);

}  // namespace rare
