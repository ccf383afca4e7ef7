#pragma once

#include <vector>

#include "rare/image.h"

namespace rare {

/// Size of the new grid: size * zoom (old spacing over new), rounded half up, at least 1.
/// Throws Error (data) for a grid of more than 2^30 voxels: a wrong spacing, not a scan.
Shape resampled_shape(const Shape& shape, const Triple& zoom);

/// Bring an image to a grid of spacing old / zoom: means over boxes of at least `min_box_voxels`. An axis of zoom 1 stays.
/// `goal` is the new grid's size if it is known, as on the way back; both grids have one middle in any case.
Image resample(Image image, const Triple& zoom, const Shape& goal, double min_box_voxels);
Image resample(Image image, const Triple& zoom, double min_box_voxels);

/// For each of `size` voxels of the old grid: the voxel of the new grid whose middle is nearest.
std::vector<std::size_t> nearest_indices(std::size_t size, std::size_t new_size, double zoom);

}  // namespace rare
