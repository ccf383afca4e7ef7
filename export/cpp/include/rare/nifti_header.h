#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include <nifti2_io.h>

#include "rare/image.h"
#include "rare/nifti_affine.h"
#include "rare/nifti_stream.h"

namespace rare {

/// A NIfTI-1 or NIfTI-2 header in this machine's byte order, found plausible.
///
/// niftilib's structures and conversions; not its reader, which turns NaN into 0 and a spacing of 0 into 1 mm, where we refuse.
class NiftiHeader {
 public:
  /// Reads the first bytes of a file of `file_bytes` and decides from them alone. Throws Error (data) for what is wrong with them.
  NiftiHeader(NiftiStream& stream, double file_bytes);

  const Shape& shape() const { return shape_; }
  std::size_t num_channels() const { return num_channels_; }
  int datatype() const;
  std::size_t bytes_per_voxel() const;
  /// What is left between the header and the voxels.
  std::size_t bytes_before_voxels() const;
  bool swapped() const { return swapped_; }

  /// Slope and intercept of the stored values; 1 and 0 where they are not set.
  std::array<double, 2> scaling() const;

  /// Throws Error (data); see nifti_affine.h.
  Affine affine_mm() const;

  /// The bytes of a header for labels on the same grid, with its codes and units, up to where the voxels begin.
  /// Texts that may name the patient are emptied.
  std::vector<char> for_labels(int datatype, int bits_per_voxel) const;

 private:
  std::variant<nifti_1_header, nifti_2_header> raw_;
  bool swapped_ = false;
  std::vector<std::size_t> sizes_;
  Shape shape_{1, 1, 1};
  std::size_t num_channels_ = 1;
};

}  // namespace rare
