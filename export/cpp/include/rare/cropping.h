#pragma once

#include <cstdint>
#include <vector>

#include "rare/volume.h"

namespace rare {

/// Where a cropped scan lies in the whole one, along its own axes.
struct Placement {
  Shape whole{};
  Shape start{};
};

/// A box, from `first` to `last` along each axis; empty: no voxel.
struct Box {
  Shape first{}, last{};
  bool empty = true;
};

/// Returns the smallest box that holds all voxels (channels slowest, X fastest) of which any channel differs from 0.
Box content_box(const std::vector<float>& voxels, std::size_t num_channels, const Shape& shape);

struct Cropped {
  Volume scan;
  Placement placement;
};

/// Returns a scan cropped to the smallest box that holds all voxels of which any channel differs from 0, with its affine, and where it
/// lies. The whole scan if there is no such voxel.
Cropped crop_to_content(const Volume& scan);

/// Returns labels of a box of `shape` on the whole scan, X fastest: 0, the background, outside.
std::vector<std::int32_t> place(const std::vector<std::int32_t>& labels, const Shape& shape, const Placement& placement);

}  // namespace rare
