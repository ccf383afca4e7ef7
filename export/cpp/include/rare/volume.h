#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "rare/image.h"
#include "rare/nifti_header.h"

namespace rare {

/// A scan as its file holds it: X is the fastest axis, channels the slowest; intensities scaled, float32, finite.
struct Volume {
  NiftiHeader header;
  Affine affine_mm{};
  std::size_t num_channels = 0;
  Shape shape{};
  std::vector<float> voxels;
};

/// What the header of a scan says of it.
struct Geometry {
  std::size_t num_channels = 0;
  Shape shape{};
  Affine affine_mm{};
};

/// Read the header of a scan and nothing else. Throws Error (data) for what is wrong with it.
Geometry read_geometry(const std::filesystem::path& path);

/// Read a scan from .nii or .nii.gz, 3D or 4D with channels last. Throws Error (data) for a broken file and non-finite voxels.
Volume read_volume(const std::filesystem::path& path);

}  // namespace rare
