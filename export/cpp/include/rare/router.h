#pragma once

#include <array>
#include <optional>
#include <vector>

#include "rare/bundle.h"

namespace rare {

/// The grid of an entry with an engine.
struct Grid {
  Entry entry{};
  Triple spacing_mm{};
};

/// Where a scan enters, and the zoom per axis: spacing / the grid's spacing; 1 for an axis that is not resampled.
struct Route {
  Entry entry{};
  Triple zoom{1, 1, 1};
};

/// Chooses the entry where a scan joins the network from its spacing (along RAS axes, mm).
class Router {
 public:
  Router(const RoutingRule& rule, std::vector<Grid> grids);

  /// `entry` forces one. Throws Error: data for a spacing that is not finite and positive, usage for an entry without an engine.
  Route route(const Triple& spacing_mm, std::optional<Entry> entry = {}) const;

 private:
  const Grid& nearest(const Triple& octaves) const;
  const Grid& finest(const Triple& octaves) const;
  const Grid& of_entry(const Entry& entry) const;
  /// Which axes the model accepts without resampling, given the ratios of spacing to grid spacing.
  std::array<bool, 3> as_they_are(const Triple& ratio) const;

  RoutingRule rule_;
  std::vector<Grid> grids_;
};

}  // namespace rare
