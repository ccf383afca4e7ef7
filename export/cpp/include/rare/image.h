#pragma once

#include <array>
#include <cstddef>
#include <sstream>
#include <string>
#include <vector>

namespace rare {

using Shape = std::array<std::size_t, 3>;  ///< (X, Y, Z) in voxels
using Triple = std::array<double, 3>;      ///< one number per axis

inline std::size_t num_voxels(const Shape& shape) { return shape[0] * shape[1] * shape[2]; }

/// (C, X, Y, Z) float32 in C order: Z is the fastest axis. Scans have RAS axes.
struct Image {
  std::size_t num_channels = 0;
  Shape shape{};
  std::vector<float> values;
};

/// "1 x 2 x 3", for messages.
template <class Values>
std::string times(const Values& values) {
  std::ostringstream text;
  const char* separator = "";
  for (const auto& value : values) {
    text << separator << value;
    separator = " x ";
  }
  return text.str();
}

}  // namespace rare
