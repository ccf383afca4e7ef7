#pragma once

#include <optional>
#include <vector>

#include "rare/bundle.h"

namespace rare {

/// The grid of a routing depth that there is an engine for.
struct Grid {
  int depth = 0;
  Triple spacing_mm{};
};

/// Where a scan enters, and what is left to resample: spacing over the grid's spacing, per axis; 1 where nothing is.
struct Route {
  int depth = 0;
  Triple zoom{1, 1, 1};
};

/// From the spacing of a scan (along RAS axes, mm) to the depth where it enters the network.
class Router {
 public:
  Router(const RoutingRule& rule, std::vector<Grid> grids);

  /// `depth` forces one. Throws Error: data for a spacing that is not finite and positive, usage for a depth that is not there.
  Route route(const Triple& spacing_mm, std::optional<int> depth = {}) const;

 private:
  /// Whether the model has learned to see a scan with these spacings over its grid's.
  bool enters_as_it_is(const Triple& ratio) const;
  const Grid& nearest(const Triple& spacing_mm) const;
  const Grid& of_depth(int depth) const;

  RoutingRule rule_;
  std::vector<Grid> grids_;
};

}  // namespace rare
