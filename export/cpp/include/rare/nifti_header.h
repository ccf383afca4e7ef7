#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include <nifti2_io.h>

namespace rare {

/// Voxel index -> mm in RAS+, without the last row.
using Affine = std::array<std::array<double, 4>, 3>;

/// A NIfTI-1 or NIfTI-2 header in this machine's byte order, found plausible.
///
/// niftilib's structures and conversions; not its reader, which turns NaN into 0 and a spacing of 0 into 1 mm, where we refuse.
class NiftiHeader {
 public:
  static constexpr std::size_t most_bytes = sizeof(nifti_2_header);

  /// Parses the first bytes of a file that can hold at most `capacity` bytes. Throws Error (data) for what is wrong with them.
  NiftiHeader(const std::vector<char>& start, double capacity);

  /// Sizes of all axes.
  std::vector<std::size_t> sizes() const;
  int datatype() const;
  std::size_t bytes_per_voxel() const;
  std::size_t voxel_offset() const;
  bool swapped() const { return swapped_; }

  /// Slope and intercept of the stored values; 1 and 0 where they are not set.
  std::array<double, 2> scaling() const;

  /// The affine in mm: the sform if it is set, else the qform, else one made of pixdim alone, x flipped as nibabel does.
  /// Throws Error (data) for axes that are not at right angles, an unknown spacing, forms or units that contradict each other.
  Affine affine_mm() const;

  /// The bytes of a header for labels (X, Y, Z) on the same grid, with its codes and units, up to where the voxels begin.
  /// Texts that may name the patient are emptied.
  std::vector<char> for_labels(const std::array<std::size_t, 3>& shape, int datatype, int bits_per_voxel) const;

 private:
  std::variant<nifti_1_header, nifti_2_header> raw_;
  bool swapped_ = false;
};

}  // namespace rare
