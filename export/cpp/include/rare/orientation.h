#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "rare/image.h"
#include "rare/volume.h"

namespace rare {

/// How the axes of an array are swapped and flipped to point right, anterior, superior.
class Orientation {
 public:
  /// Decides like nibabel's io_orientation: by the rotation nearest to the affine, strongest axis first.
  explicit Orientation(const Affine& affine);

  /// Returns the shape in RAS axes of an array of `shape`.
  Shape ras(const Shape& shape) const;
  Triple ras(const Triple& per_axis) const;

  /// Returns, for an array of `shape` with X fastest, the offset of RAS voxel (0, 0, 0) and the steps along the RAS axes.
  struct Strides {
    std::ptrdiff_t start = 0;
    std::array<std::ptrdiff_t, 3> steps{};
  };
  Strides strides(const Shape& shape) const;

 private:
  std::array<std::size_t, 3> target_{};  ///< the RAS axis of each array axis
  std::array<bool, 3> flipped_{};
};

/// Returns a scan in RAS axes, C order.
Image to_ras(const Volume& volume, const Orientation& orientation);

/// Returns the spacing along RAS axes, in mm.
Triple ras_spacing_mm(const Affine& affine, const Orientation& orientation);

}  // namespace rare
