#include "rare/bounds.h"

#include <algorithm>
#include <string>

#include "rare/engine.h"
#include "rare/error.h"
#include "rare/memory.h"
#include "rare/orientation.h"
#include "rare/resampling.h"
#include "rare/windows.h"

namespace rare {
namespace {

constexpr double most_filters = 320;
constexpr double most_windows_of_a_thin_scan = 256;  // as in rarecli/core/imaging/bounds.py

double product(const Shape& shape) {
  return static_cast<double>(shape[0]) * static_cast<double>(shape[1]) * static_cast<double>(shape[2]);
}

/// What is held at once: the scan, its image on the routed grid, the logits, and what the network takes for a window.
double prediction_bytes(const Geometry& scan, const Shape& routed, const Manifest& manifest, const EngineEntry& entry) {
  const Shape window = window_shape(routed, entry);
  Shape whole{};
  for (std::size_t axis = 0; axis < 3; ++axis) whole[axis] = std::max(routed[axis], window[axis]);
  const double values = static_cast<double>(scan.num_channels) * (product(scan.shape) + product(routed)) +
                        static_cast<double>(manifest.label_values.size()) * product(whole);
  return sizeof(float) * values + least_engine_bytes(manifest.network, entry.depth, window);
}

}  // namespace

double least_engine_bytes(const NetworkFacts& network, int depth, const Shape& window) {
  const auto channels = [&](int level) { return std::min(network.num_filters * static_cast<double>(1 << level), most_filters); };
  const auto voxels = [&](int level) {
    Shape sizes{};
    for (std::size_t axis = 0; axis < 3; ++axis) sizes[axis] = window[axis] >> static_cast<unsigned>(level - depth);
    return product(sizes);
  };
  double weights = 0, largest = 0;
  const auto convolution = [&](double inputs, double outputs, int level, double kernel) {
    weights += kernel * inputs * outputs + outputs;
    largest = std::max(largest, (inputs + outputs) * voxels(level));
  };
  const auto norm = [&](double outputs) { weights += 2 * outputs; };
  for (int level = depth; level <= network.num_levels; ++level) {
    const double inputs = level == depth ? network.num_channels : channels(level - 1), outputs = channels(level);
    if (level > depth) largest = std::max(largest, inputs * (voxels(level - 1) + voxels(level)));
    convolution(inputs, outputs, level, 27);
    convolution(outputs, outputs, level, 27);
    norm(2 * outputs);
    largest = std::max(largest, 2 * outputs * voxels(level));
  }
  for (int level = network.num_levels - 1; level >= depth; --level) {
    const double above = channels(level), below = channels(level + 1);
    weights += 27 * below * above + above;
    largest = std::max(largest, below * voxels(level + 1) + above * voxels(level));
    convolution(2 * above, above, level, 27);
    norm(above);
  }
  convolution(channels(depth), network.num_classes, depth, 1);
  return sizeof(float) * (weights + largest);
}

void require_no_thread(const Shape& shape, const EngineEntry& entry, const WindowRule& rule) {
  const Shape window = window_shape(shape, entry);
  double padding = 1, windows = 1;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    padding *= std::max(1.0, static_cast<double>(window[axis]) / static_cast<double>(shape[axis]));
    windows *= num_windows(shape[axis], window[axis], rule.overlap);
  }
  // a single slice of any size passes: padding makes it at most min_shape times as many voxels
  const auto most = static_cast<double>(*std::max_element(entry.min_shape.begin(), entry.min_shape.end()));
  if (padding > most && windows > most_windows_of_a_thin_scan) {
    throw Error(Fault::data, "the scan is too thin for its length",
                {{},
                 times(shape) + " voxels on the grid of depth " + std::to_string(entry.depth) + ", in " + times(std::array{windows}) +
                     " windows",
                 "at most " + times(std::array{most_windows_of_a_thin_scan}) + " windows",
                 "crop the scan, or check the sizes in its header"});
  }
}

Route affordable_route(const Geometry& scan, const Manifest& manifest, const std::vector<Grid>& grids, std::optional<int> depth) {
  if (scan.num_channels != manifest.num_channels) {
    throw Error(Fault::model, "the model was trained for a different number of channels",
                {{}, std::to_string(scan.num_channels), std::to_string(manifest.num_channels)});
  }
  const Orientation orientation(scan.affine_mm);
  const Route route = Router(manifest.routing, grids).route(ras_spacing_mm(scan.affine_mm, orientation), depth);
  const Shape routed = resampled_shape(orientation.ras(scan.shape), route.zoom, manifest.resampling);
  const EngineEntry& entry = engine_entry(manifest, route.depth);
  require_no_thread(routed, entry, manifest.window);
  require_memory(prediction_bytes(scan, routed, manifest, entry), "predicting the scan");
  return route;
}

}  // namespace rare
