#include "rare/resampling.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "rare/error.h"

namespace rare {
namespace {

constexpr double most_voxels = 1073741824;

/// The old voxels that a new voxel averages: `weights.size()` of them from `first` on; beyond the border the last one is repeated.
struct Taps {
  std::ptrdiff_t first;
  std::vector<float> weights;
};

std::vector<Taps> axis_taps(std::size_t size, std::size_t new_size, double step, double min_box_voxels) {
  const double half = std::max(min_box_voxels, step) / 2;
  const auto num_taps = static_cast<std::size_t>(std::ceil(2 * half)) + 1;
  std::vector<Taps> rows;
  for (std::size_t row = 0; row < new_size; ++row) {
    const double centre =
        (static_cast<double>(row) - static_cast<double>(new_size - 1) / 2) * step + static_cast<double>(size - 1) / 2;
    const double first = std::floor(centre - half + 0.5);
    std::vector<double> overlaps;
    double sum = 0;
    for (std::size_t tap = 0; tap < num_taps; ++tap) {
      const double place = first + static_cast<double>(tap);
      overlaps.push_back(std::max(0.0, std::min(place + 0.5, centre + half) - std::max(place - 0.5, centre - half)));
      sum += overlaps.back();
    }
    Taps taps{static_cast<std::ptrdiff_t>(first), {}};
    for (const double overlap : overlaps) taps.weights.push_back(static_cast<float>(overlap / sum));
    rows.push_back(std::move(taps));
  }
  return rows;
}

Image resample_axis(const Image& image, std::size_t axis, std::size_t new_size, double step, double min_box_voxels) {
  const std::size_t size = image.shape[axis];
  std::size_t outer = image.num_channels;
  for (std::size_t before = 0; before < axis; ++before) outer *= image.shape[before];
  std::size_t inner = 1;
  for (std::size_t after = axis + 1; after < 3; ++after) inner *= image.shape[after];
  Image result{image.num_channels, image.shape, std::vector<float>(outer * new_size * inner)};
  result.shape[axis] = new_size;
  const std::vector<Taps> rows = axis_taps(size, new_size, step, min_box_voxels);
  for (std::size_t block = 0; block < outer; ++block) {
    for (std::size_t row = 0; row < new_size; ++row) {
      float* const out = result.values.data() + (block * new_size + row) * inner;
      for (std::size_t tap = 0; tap < rows[row].weights.size(); ++tap) {
        const std::ptrdiff_t place = rows[row].first + static_cast<std::ptrdiff_t>(tap);
        const auto inside = static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(place, 0, static_cast<std::ptrdiff_t>(size) - 1));
        const float* const in = image.values.data() + (block * size + inside) * inner;
        const float weight = rows[row].weights[tap];
        for (std::size_t index = 0; index < inner; ++index) out[index] += weight * in[index];
      }
    }
  }
  return result;
}

}  // namespace

Shape resampled_shape(const Shape& shape, const Triple& zoom, const ResamplingRule& rule) {
  double growth = 1;
  bool near = true;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    growth *= std::max(zoom[axis], 1 / static_cast<double>(shape[axis]));
    near = near && zoom[axis] >= 1 / rule.max_step && zoom[axis] <= rule.max_step;
  }
  if (!near || growth > rule.max_growth) {
    throw Error(Fault::data, "the spacing is too far from the grid that the scan is resampled to",
                {{}, times(zoom) + " times the grid's spacing", "a spacing in the correct unit"});
  }
  Triple sizes{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    sizes[axis] = std::max(1.0, std::floor(static_cast<double>(shape[axis]) * zoom[axis] + 0.5));
  }
  if (sizes[0] * sizes[1] * sizes[2] > std::max(most_voxels, static_cast<double>(num_voxels(shape)))) {
    throw Error(Fault::data, "the resampled scan would be too large",
                {{}, times(shape) + " voxels would become " + times(sizes), "at most 2^30 voxels"});
  }
  return {static_cast<std::size_t>(sizes[0]), static_cast<std::size_t>(sizes[1]), static_cast<std::size_t>(sizes[2])};
}

Image resample(Image image, const Triple& zoom, const Shape& goal, const ResamplingRule& rule) {
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (zoom[axis] != 1) image = resample_axis(image, axis, goal[axis], 1 / zoom[axis], rule.min_box_voxels);
  }
  return image;
}

Image resample(Image image, const Triple& zoom, const ResamplingRule& rule) {
  const Shape goal = resampled_shape(image.shape, zoom, rule);
  return resample(std::move(image), zoom, goal, rule);
}

std::vector<std::size_t> nearest_indices(std::size_t size, std::size_t new_size, double zoom) {
  std::vector<std::size_t> indices;
  for (std::size_t index = 0; index < size; ++index) {
    const double centre =
        (static_cast<double>(index) - static_cast<double>(size - 1) / 2) * zoom + static_cast<double>(new_size - 1) / 2;
    indices.push_back(static_cast<std::size_t>(std::clamp(std::floor(centre + 0.5), 0.0, static_cast<double>(new_size - 1))));
  }
  return indices;
}

}  // namespace rare
