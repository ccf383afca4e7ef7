#pragma once

#include <vector>

#include "rare/bundle.h"
#include "rare/engine.h"

namespace rare {

/// What an engine is given at once: the patch along an axis that is longer, else the axis enlarged to a size it takes.
Shape window_shape(const Shape& shape, const EngineEntry& entry);

/// How many windows cover an axis.
double num_windows(std::size_t size, std::size_t window, double overlap);

/// First voxels of the windows along an axis.
std::vector<std::size_t> window_starts(std::size_t size, std::size_t window, double overlap);

/// Logits of a normalised image over all windows, on its own grid: (K, X, Y, Z), `Image::num_channels` being K.
Image sliding_logits(const Image& image, std::size_t num_classes, const Shape& window, const WindowRule& rule, Engine& engine);

}  // namespace rare
