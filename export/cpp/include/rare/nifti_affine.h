#pragma once

#include <array>

#include <nifti2_io.h>

namespace rare {

/// Voxel index -> mm in RAS+, without the last row.
using Affine = std::array<std::array<double, 4>, 3>;

/// The affine in mm: the sform if it is set, else the qform, else one made of pixdim alone, x flipped as nibabel does.
/// `sizes` are those of the first three axes that exist, else 1. Throws Error (data) for axes that are not at right angles, an unknown
/// spacing, forms or units that contradict each other.
template <class Raw>
Affine affine_mm_of(const Raw& raw, const std::array<std::size_t, 3>& sizes);

extern template Affine affine_mm_of(const nifti_1_header& raw, const std::array<std::size_t, 3>& sizes);
extern template Affine affine_mm_of(const nifti_2_header& raw, const std::array<std::size_t, 3>& sizes);

}  // namespace rare
