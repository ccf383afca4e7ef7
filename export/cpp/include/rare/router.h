#pragma once

#include <optional>
#include <vector>

#include "rare/bundle.h"

namespace rare {

/// The grid of a routing depth with an engine.
struct Grid {
  int depth = 0;
  Triple spacing_mm{};
};

/// Where a scan enters, and the zoom per axis: spacing / the grid's spacing; 1 for an axis that is not resampled.
struct Route {
  int depth = 0;
  Triple zoom{1, 1, 1};
};

/// Chooses the depth where a scan enters the network from its spacing (along RAS axes, mm).
class Router {
 public:
  Router(const RoutingRule& rule, std::vector<Grid> grids);

  /// `depth` forces one. Throws Error: data for a spacing that is not finite and positive, usage for a depth without an engine.
  Route route(const Triple& spacing_mm, std::optional<int> depth = {}) const;

 private:
  /// Returns whether the model accepts a scan with these ratios of spacing to grid spacing without resampling.
  bool enters_as_it_is(const Triple& ratio) const;
  const Grid& nearest(const Triple& spacing_mm) const;
  const Grid& of_depth(int depth) const;

  RoutingRule rule_;
  std::vector<Grid> grids_;
};

}  // namespace rare
