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
double prediction_bytes(const Geometry& scan, const Shape& routed, const Manifest& manifest, const EngineFacts& engine) {
  const Shape window = window_shape(routed, engine);
  Shape whole{};
  for (std::size_t axis = 0; axis < 3; ++axis) whole[axis] = std::max(routed[axis], window[axis]);
  const double values = static_cast<double>(scan.num_channels) * (product(scan.shape) + product(routed)) +
                        static_cast<double>(manifest.label_values.size()) * product(whole);
  return sizeof(float) * values + least_engine_bytes(manifest.network, engine.entry, window);
}

}  // namespace

double least_engine_bytes(const NetworkFacts& network, const Entry& entry, const Shape& window) {
  const int first = network.gateways ? *std::min_element(entry.begin(), entry.end()) : 0;
  const auto channels = [&](int level) { return std::min(network.num_filters * static_cast<double>(1 << level), most_filters); };
  const auto voxels = [&](int level) {
    Shape sizes{};
    for (std::size_t axis = 0; axis < 3; ++axis) {  // halved below the axis's own depth, an odd size rounded up
      const std::size_t step = std::size_t{1} << static_cast<unsigned>(std::max(level - entry[axis], 0));
      sizes[axis] = (window[axis] + step - 1) / step;
    }
    return product(sizes);
  };
  double weights = 0, largest = 0;
  const auto convolution = [&](double inputs, double outputs, int level, double kernel) {
    weights += kernel * inputs * outputs + outputs;
    largest = std::max(largest, (inputs + outputs) * voxels(level));
  };
  const auto norm = [&](double outputs) { weights += 2 * outputs; };
  for (int level = first; level <= network.num_levels; ++level) {
    const double inputs = level == first ? network.num_channels : channels(level - 1), outputs = channels(level);
    if (level > first) largest = std::max(largest, inputs * (voxels(level - 1) + voxels(level)));
    convolution(inputs, outputs, level, 27);
    convolution(outputs, outputs, level, 27);
    norm(2 * outputs);
    largest = std::max(largest, 2 * outputs * voxels(level));
  }
  for (int level = network.num_levels - 1; level >= first; --level) {
    const double above = channels(level), below = channels(level + 1);
    weights += 27 * below * above + above;
    largest = std::max(largest, below * voxels(level + 1) + above * voxels(level));
    convolution(2 * above, above, level, 27);
    norm(above);
  }
  convolution(channels(first), network.num_classes, first, 1);
  return sizeof(float) * (weights + largest);
}

void require_no_thread(const Shape& shape, const EngineFacts& engine, const WindowRule& rule) {
  const Shape window = window_shape(shape, engine);
  double padding = 1, windows = 1;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    padding *= std::max(1.0, static_cast<double>(window[axis]) / static_cast<double>(shape[axis]));
    windows *= num_windows(shape[axis], window[axis], rule.overlap);
  }
  // a single slice of any size passes: padding makes it at most min_shape times as many voxels
  const auto most = static_cast<double>(*std::max_element(engine.min_shape.begin(), engine.min_shape.end()));
  if (padding > most && windows > most_windows_of_a_thin_scan) {
    throw Error(Fault::data, "the scan is too thin for its length",
                {{},
                 times(shape) + " voxels on the grid of " + entry_text(engine.entry) + ", in " + times(std::array{windows}) + " windows",
                 "at most " + times(std::array{most_windows_of_a_thin_scan}) + " windows",
                 "crop the scan, or check the sizes in its header"});
  }
}

Route affordable_route(const Geometry& scan, const Manifest& manifest, const std::vector<Grid>& grids, std::optional<Entry> entry) {
  if (scan.num_channels != manifest.num_channels) {
    throw Error(Fault::model, "the model was trained for a different number of channels",
                {{}, std::to_string(scan.num_channels), std::to_string(manifest.num_channels)});
  }
  const Orientation orientation(scan.affine_mm);
  const Route route = Router(manifest.routing, grids).route(ras_spacing_mm(scan.affine_mm, orientation), entry);
  const Shape routed = resampled_shape(orientation.ras(scan.shape), route.zoom, manifest.resampling);
  const EngineFacts& engine = engine_facts(manifest, route.entry);
  require_no_thread(routed, engine, manifest.window);
  require_memory(prediction_bytes(scan, routed, manifest, engine), "predicting the scan");
  return route;
}

}  // namespace rare
