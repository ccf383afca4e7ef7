#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "rare/bundle.h"
#include "rare/cropping.h"
#include "rare/engine.h"
#include "rare/orientation.h"
#include "rare/router.h"
#include "rare/volume.h"

namespace rare {

/// A scan on its routed grid, normalised, not padded, with what is needed to bring labels back.
struct RoutedScan {
  Image image;
  Route route;
  Orientation orientation;
  /// Of the scan, cropped, along its own axes.
  Shape scan_shape{};
  Placement placement;
};

/// Crop and route a scan, bring it to the grid of its entry, normalise it. `entry` forces one.
/// Throws Error; see `affordable_route` (bounds.h).
RoutedScan prepare(const Volume& scan, const Manifest& manifest, const std::vector<Grid>& grids, std::optional<Entry> entry = {});

/// Returns the scores that decide the labels: the logits, or, if the routed grid is finer than the scan along some axes, the mean
/// probabilities over the scan's own voxels along these axes, which then have the scan's size.
Image voxel_scores(Image logits, const Manifest& manifest, const RoutedScan& routed);

/// Returns the best class of every voxel, the first among equals, as the values of the training labels.
std::vector<std::int32_t> best_labels(const Image& scores, const std::vector<int>& label_values);

/// Returns labels of shape `from` on the whole scan's own grid and axes, X fastest; each voxel takes the nearest label.
/// An axis with the scan's size is unchanged.
std::vector<std::int32_t> restore(const std::vector<std::int32_t>& labels, const Shape& from, const RoutedScan& routed);

/// Returns labels on the scan's own grid for logits on the routed grid: the three functions above in order.
std::vector<std::int32_t> segment(Image logits, const Manifest& manifest, const RoutedScan& routed);

}  // namespace rare
