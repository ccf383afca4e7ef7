#pragma once

#include <vector>

#include "rare/bundle.h"
#include "rare/engine.h"

namespace rare {

/// Returns the size of a window: the patch along longer axes, otherwise the axis enlarged to a valid size.
Shape window_shape(const Shape& shape, const EngineFacts& engine);

/// How many windows cover an axis.
double num_windows(std::size_t size, std::size_t window, double overlap);

/// Returns the first voxels of the windows along an axis.
std::vector<std::size_t> window_starts(std::size_t size, std::size_t window, double overlap);

/// Returns the logits (K, X, Y, Z) of a normalised image over all windows, on its own grid; `Image::num_channels` is K.
Image sliding_logits(const Image& image, std::size_t num_classes, const Shape& window, const WindowRule& rule, Engine& engine);

}  // namespace rare
