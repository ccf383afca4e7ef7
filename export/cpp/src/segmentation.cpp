#include "rare/segmentation.h"

#include <utility>

#include "rare/error.h"
#include "rare/normalisation.h"
#include "rare/resampling.h"

namespace rare {

RoutedScan prepare(const Volume& scan, const Manifest& manifest, const std::vector<Grid>& grids, std::optional<int> depth) {
  if (scan.num_channels != manifest.num_channels) {
    throw Error(Fault::model, "the model was trained for another number of channels",
                {{}, std::to_string(scan.num_channels), std::to_string(manifest.num_channels)});
  }
  const Orientation orientation(scan.affine_mm);
  const Route route = Router(manifest.routing, grids).route(ras_spacing_mm(scan.affine_mm, orientation), depth);
  Image image = resample(to_ras(scan, orientation), route.zoom, manifest.min_box_voxels);
  normalise(image, manifest.normalisation);
  return {std::move(image), route, orientation};
}

std::vector<std::int32_t> best_labels(const Image& logits, const std::vector<int>& label_values) {
  const std::size_t size = num_voxels(logits.shape);
  std::vector<std::int32_t> labels(size);
  for (std::size_t voxel = 0; voxel < size; ++voxel) {
    std::size_t best = 0;
    for (std::size_t index = 1; index < logits.num_channels; ++index) {
      if (logits.values[index * size + voxel] > logits.values[best * size + voxel]) best = index;
    }
    labels[voxel] = label_values[best];
  }
  return labels;
}

std::vector<std::int32_t> restore(const std::vector<std::int32_t>& labels, const RoutedScan& routed, const Volume& scan) {
  const Shape& from = routed.image.shape;
  const Shape to = routed.orientation.ras(scan.shape);
  std::array<std::vector<std::size_t>, 3> nearest;
  for (std::size_t axis = 0; axis < 3; ++axis) nearest[axis] = nearest_indices(to[axis], from[axis], routed.route.zoom[axis]);
  const auto [start, steps] = routed.orientation.strides(scan.shape);
  std::vector<std::int32_t> restored(num_voxels(to));
  for (std::size_t x = 0; x < to[0]; ++x) {
    for (std::size_t y = 0; y < to[1]; ++y) {
      std::int32_t* line = restored.data() + start + static_cast<std::ptrdiff_t>(x) * steps[0] + static_cast<std::ptrdiff_t>(y) * steps[1];
      const std::int32_t* const row = labels.data() + (nearest[0][x] * from[1] + nearest[1][y]) * from[2];
      for (std::size_t z = 0; z < to[2]; ++z) line[static_cast<std::ptrdiff_t>(z) * steps[2]] = row[nearest[2][z]];
    }
  }
  return restored;
}

}  // namespace rare
