#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "rare/image.h"
#include "rare/volume.h"

namespace rare {

/// Where the axes of an array go to point right, anterior, superior.
class Orientation {
 public:
  /// As nibabel's io_orientation decides: by the rotation nearest to the affine, strongest axis first.
  explicit Orientation(const Affine& affine);

  /// Shape in RAS axes of an array of `shape`.
  Shape ras(const Shape& shape) const;
  Triple ras(const Triple& per_axis) const;

  /// For an array of `shape` with X fastest: offset of the voxel that is RAS voxel (0, 0, 0), and the steps along the RAS axes.
  struct Strides {
    std::ptrdiff_t start = 0;
    std::array<std::ptrdiff_t, 3> steps{};
  };
  Strides strides(const Shape& shape) const;

 private:
  std::array<std::size_t, 3> target_{};  ///< the RAS axis of each array axis
  std::array<bool, 3> flipped_{};
};

/// A scan in RAS axes, C order.
Image to_ras(const Volume& volume, const Orientation& orientation);

/// Spacing along RAS axes, in mm.
Triple ras_spacing_mm(const Affine& affine, const Orientation& orientation);

}  // namespace rare
