#include "rare/cropping.h"

#include <algorithm>
#include <utility>

namespace rare {

Box content_box(const std::vector<float>& voxels, std::size_t num_channels, const Shape& shape) {
  Box box;
  const float* voxel = voxels.data();
  for (std::size_t channel = 0; channel < num_channels; ++channel) {
    for (std::size_t z = 0; z < shape[2]; ++z) {
      for (std::size_t y = 0; y < shape[1]; ++y) {
        for (std::size_t x = 0; x < shape[0]; ++x, ++voxel) {
          if (*voxel == 0) continue;
          const Shape at{x, y, z};
          for (std::size_t axis = 0; axis < 3; ++axis) {
            box.first[axis] = box.empty ? at[axis] : std::min(box.first[axis], at[axis]);
            box.last[axis] = box.empty ? at[axis] : std::max(box.last[axis], at[axis]);
          }
          box.empty = false;
        }
      }
    }
  }
  return box;
}

Cropped crop_to_content(const Volume& scan) {
  const Box box = content_box(scan.voxels, scan.num_channels, scan.shape);
  if (box.empty) return {scan, {scan.shape, {}}};
  Volume part{scan.header, scan.affine_mm, scan.num_channels, {}, {}};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    part.shape[axis] = box.last[axis] - box.first[axis] + 1;
    for (std::size_t row = 0; row < 3; ++row) part.affine_mm[row][3] += part.affine_mm[row][axis] * static_cast<double>(box.first[axis]);
  }
  part.voxels.resize(scan.num_channels * num_voxels(part.shape));
  float* to = part.voxels.data();
  for (std::size_t channel = 0; channel < scan.num_channels; ++channel) {
    for (std::size_t z = 0; z < part.shape[2]; ++z) {
      for (std::size_t y = 0; y < part.shape[1]; ++y) {
        const std::size_t line = ((channel * scan.shape[2] + z + box.first[2]) * scan.shape[1] + y + box.first[1]) * scan.shape[0];
        to = std::copy_n(scan.voxels.data() + line + box.first[0], part.shape[0], to);
      }
    }
  }
  return {std::move(part), {scan.shape, box.first}};
}

std::vector<std::int32_t> place(const std::vector<std::int32_t>& labels, const Shape& shape, const Placement& placement) {
  if (shape == placement.whole) return labels;
  std::vector<std::int32_t> placed(num_voxels(placement.whole));
  const std::int32_t* from = labels.data();
  for (std::size_t z = 0; z < shape[2]; ++z) {
    for (std::size_t y = 0; y < shape[1]; ++y) {
      const std::size_t line = ((z + placement.start[2]) * placement.whole[1] + y + placement.start[1]) * placement.whole[0];
      std::copy_n(from, shape[0], placed.data() + line + placement.start[0]);
      from += shape[0];
    }
  }
  return placed;
}

}  // namespace rare
