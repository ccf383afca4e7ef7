#include "rare/orientation.h"

#include <cmath>

namespace rare {
namespace {

Triple spacing_mm(const Affine& affine) {
  Triple spacing{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    spacing[axis] =
        std::sqrt(affine[0][axis] * affine[0][axis] + affine[1][axis] * affine[1][axis] + affine[2][axis] * affine[2][axis]);
  }
  return spacing;
}

}  // namespace

Orientation::Orientation(const Affine& affine) {
  const Triple spacing = spacing_mm(affine);
  nifti_dmat33 directions{};
  for (std::size_t row = 0; row < 3; ++row) {
    for (std::size_t axis = 0; axis < 3; ++axis) directions.m[row][axis] = affine[row][axis] / spacing[axis];
  }
  const nifti_dmat33 rotation = nifti_dmat33_polar(directions);
  const auto strength = [&](std::size_t axis) {
    return std::max({std::abs(rotation.m[0][axis]), std::abs(rotation.m[1][axis]), std::abs(rotation.m[2][axis])});
  };
  std::array<std::size_t, 3> order{0, 1, 2};
  std::stable_sort(order.begin(), order.end(), [&](std::size_t one, std::size_t other) { return strength(one) > strength(other); });
  std::array<bool, 3> taken{};
  for (const std::size_t axis : order) {
    std::size_t best = 3;
    for (std::size_t row = 0; row < 3; ++row) {
      if (!taken[row] && (best == 3 || std::abs(rotation.m[row][axis]) > std::abs(rotation.m[best][axis]))) best = row;
    }
    taken[best] = true;
    target_[axis] = best;
    flipped_[axis] = rotation.m[best][axis] < 0;
  }
}

Shape Orientation::ras(const Shape& shape) const {
  Shape turned{};
  for (std::size_t axis = 0; axis < 3; ++axis) turned[target_[axis]] = shape[axis];
  return turned;
}

Triple Orientation::ras(const Triple& per_axis) const {
  Triple turned{};
  for (std::size_t axis = 0; axis < 3; ++axis) turned[target_[axis]] = per_axis[axis];
  return turned;
}

Orientation::Strides Orientation::strides(const Shape& shape) const {
  Strides strides;
  std::ptrdiff_t step = 1;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const auto size = static_cast<std::ptrdiff_t>(shape[axis]);
    strides.steps[target_[axis]] = flipped_[axis] ? -step : step;
    if (flipped_[axis]) strides.start += (size - 1) * step;
    step *= size;
  }
  return strides;
}

Image to_ras(const Volume& volume, const Orientation& orientation) {
  Image image{volume.num_channels, orientation.ras(volume.shape), std::vector<float>(volume.voxels.size())};
  const auto [start, steps] = orientation.strides(volume.shape);
  const std::array<std::ptrdiff_t, 3> sizes{static_cast<std::ptrdiff_t>(image.shape[0]), static_cast<std::ptrdiff_t>(image.shape[1]),
                                            static_cast<std::ptrdiff_t>(image.shape[2])};
  float* to = image.values.data();
  for (std::size_t channel = 0; channel < volume.num_channels; ++channel) {
    const float* const from = volume.voxels.data() + channel * num_voxels(volume.shape) + start;
    for (std::ptrdiff_t x = 0; x < sizes[0]; ++x) {
      for (std::ptrdiff_t y = 0; y < sizes[1]; ++y) {
        for (std::ptrdiff_t z = 0; z < sizes[2]; ++z) *to++ = from[x * steps[0] + y * steps[1] + z * steps[2]];
      }
    }
  }
  return image;
}

Triple ras_spacing_mm(const Affine& affine, const Orientation& orientation) { return orientation.ras(spacing_mm(affine)); }

}  // namespace rare
