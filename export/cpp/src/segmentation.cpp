#include "rare/segmentation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "rare/bounds.h"
#include "rare/normalisation.h"
#include "rare/resampling.h"

namespace rare {
namespace {

/// Turns logits into probabilities.
void softmax(Image& image) {
  const std::size_t size = num_voxels(image.shape);
  for (std::size_t voxel = 0; voxel < size; ++voxel) {
    float most = image.values[voxel];
    for (std::size_t index = 1; index < image.num_channels; ++index) most = std::max(most, image.values[index * size + voxel]);
    float sum = 0;
    for (std::size_t index = 0; index < image.num_channels; ++index) {
      float& value = image.values[index * size + voxel];
      value = std::exp(value - most);
      sum += value;
    }
    for (std::size_t index = 0; index < image.num_channels; ++index) image.values[index * size + voxel] /= sum;
  }
}

RoutedScan prepare_all(const Volume& scan, const Manifest& manifest, const std::vector<Grid>& grids, std::optional<Entry> entry) {
  const Route route = affordable_route({scan.num_channels, scan.shape, scan.affine_mm}, manifest, grids, entry);
  const Orientation orientation(scan.affine_mm);
  Image image = resample(to_ras(scan, orientation), route.zoom, manifest.resampling);
  normalise(image, manifest.normalisation);
  return {std::move(image), route, orientation, scan.shape, {scan.shape, {}}};
}

}  // namespace

RoutedScan prepare(const Volume& scan, const Manifest& manifest, const std::vector<Grid>& grids, std::optional<Entry> entry) {
  if (!manifest.crop_to_content) return prepare_all(scan, manifest, grids, entry);
  const Cropped cropped = crop_to_content(scan);
  RoutedScan routed = prepare_all(cropped.scan, manifest, grids, entry);
  routed.placement = cropped.placement;
  return routed;
}

Image voxel_scores(Image logits, const Manifest& manifest, const RoutedScan& routed) {
  const Shape own = routed.orientation.ras(routed.scan_shape);
  Triple back{1, 1, 1};
  Shape shape = logits.shape;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (routed.route.zoom[axis] > 1) {
      back[axis] = 1 / routed.route.zoom[axis];
      shape[axis] = own[axis];
    }
  }
  if (back == Triple{1, 1, 1}) return logits;
  softmax(logits);
  return resample(std::move(logits), back, shape, manifest.resampling);
}

std::vector<std::int32_t> best_labels(const Image& scores, const std::vector<int>& label_values) {
  const std::size_t size = num_voxels(scores.shape);
  std::vector<std::int32_t> labels(size);
  for (std::size_t voxel = 0; voxel < size; ++voxel) {
    std::size_t best = 0;
    for (std::size_t index = 1; index < scores.num_channels; ++index) {
      if (scores.values[index * size + voxel] > scores.values[best * size + voxel]) best = index;
    }
    labels[voxel] = label_values[best];
  }
  return labels;
}

std::vector<std::int32_t> restore(const std::vector<std::int32_t>& labels, const Shape& from, const RoutedScan& routed) {
  const Shape to = routed.orientation.ras(routed.scan_shape);
  std::array<std::vector<std::size_t>, 3> nearest;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    nearest[axis] = nearest_indices(to[axis], from[axis], from[axis] == to[axis] ? 1 : routed.route.zoom[axis]);
  }
  const auto [start, steps] = routed.orientation.strides(routed.scan_shape);
  std::vector<std::int32_t> restored(num_voxels(to));
  for (std::size_t x = 0; x < to[0]; ++x) {
    for (std::size_t y = 0; y < to[1]; ++y) {
      std::int32_t* line = restored.data() + start + static_cast<std::ptrdiff_t>(x) * steps[0] + static_cast<std::ptrdiff_t>(y) * steps[1];
      const std::int32_t* const row = labels.data() + (nearest[0][x] * from[1] + nearest[1][y]) * from[2];
      for (std::size_t z = 0; z < to[2]; ++z) line[static_cast<std::ptrdiff_t>(z) * steps[2]] = row[nearest[2][z]];
    }
  }
  return place(restored, routed.scan_shape, routed.placement);
}

std::vector<std::int32_t> segment(Image logits, const Manifest& manifest, const RoutedScan& routed) {
  const Image scores = voxel_scores(std::move(logits), manifest, routed);
  return restore(best_labels(scores, manifest.label_values), scores.shape, routed);
}

}  // namespace rare
