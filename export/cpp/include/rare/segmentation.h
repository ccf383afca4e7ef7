#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "rare/bundle.h"
#include "rare/engine.h"
#include "rare/orientation.h"
#include "rare/router.h"
#include "rare/volume.h"

namespace rare {

/// A scan on its routed grid, normalised, not padded, and the way back.
struct RoutedScan {
  Image image;
  Route route;
  Orientation orientation;
  /// Of the scan, along its own axes.
  Shape scan_shape{};
};

/// Route a scan, bring it to the grid of its depth, normalise it. `depth` forces one.
/// Throws Error; see `affordable_route` (bounds.h).
RoutedScan prepare(const Volume& scan, const Manifest& manifest, const std::vector<Grid>& grids, std::optional<int> depth = {});

/// What decides on labels: the logits, or where the routed grid is finer than the scan along some axis, the mean probabilities over the
/// scan's own voxels along such axes, whose size is then the scan's.
Image voxel_scores(Image logits, const Manifest& manifest, const RoutedScan& routed);

/// The best class of every voxel, the first of equals, as the values of the training labels.
std::vector<std::int32_t> best_labels(const Image& scores, const std::vector<int>& label_values);

/// Labels of the shape `from` -> the scan's own grid and axes, X fastest, each voxel taking the nearest one's.
/// An axis of the scan's size stays.
std::vector<std::int32_t> restore(const std::vector<std::int32_t>& labels, const Shape& from, const RoutedScan& routed);

/// Logits on the routed grid -> labels on the scan's own: all of the above.
std::vector<std::int32_t> segment(Image logits, const Manifest& manifest, const RoutedScan& routed);

}  // namespace rare
