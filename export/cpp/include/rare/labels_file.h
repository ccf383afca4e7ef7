#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "rare/volume.h"

namespace rare {

/// Write labels, X fastest, on the grid of `like`, in the smallest of uint8, uint16 and int32; whole or not at all.
/// Throws Error (environment) where nothing can be written.
void write_labels(const std::filesystem::path& path, const std::vector<std::int32_t>& labels, const Volume& like);

}  // namespace rare
