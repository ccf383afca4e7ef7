#pragma once

#include <optional>
#include <vector>

#include "rare/bundle.h"
#include "rare/router.h"
#include "rare/volume.h"

namespace rare {

/// Where a scan enters. The header decides what it may cost, before anything is allocated: as `rarecli/core/imaging/bounds.py` does.
/// Throws Error: data for a scan that this machine cannot hold, is nearly all padding, or lies too far from the grid; model for another
/// number of channels than the model's; usage for an absent entry.
Route affordable_route(const Geometry& scan, const Manifest& manifest, const std::vector<Grid>& grids, std::optional<Entry> entry = {});

/// Throws Error (data) for a long scan that is thin along two axes. `shape` is that on the routed grid.
void require_no_thread(const Shape& shape, const EngineFacts& engine, const WindowRule& rule);

/// The least memory that any engine needs for a window: the weights, and input and output of the largest layer.
double least_engine_bytes(const NetworkFacts& network, const Entry& entry, const Shape& window);

}  // namespace rare
