#include "rare/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "rare/error.h"

namespace rare {

Router::Router(const RoutingRule& rule, std::vector<Grid> grids) : rule_(rule), grids_(std::move(grids)) {
  if (grids_.empty()) throw Error(Fault::model, "the bundle has no engines");
  std::sort(grids_.begin(), grids_.end(), [](const Grid& one, const Grid& other) { return one.depth < other.depth; });
}

Route Router::route(const Triple& spacing_mm, std::optional<int> depth) const {
  if (!std::all_of(spacing_mm.begin(), spacing_mm.end(), [](double s) { return std::isfinite(s) && s > 0; })) {
    throw Error(Fault::data, "the spacing is not finite and positive", {{}, times(spacing_mm), "millimetres > 0"});
  }
  const Grid& grid = depth ? of_depth(*depth) : nearest(spacing_mm);
  Triple ratio{};
  for (std::size_t axis = 0; axis < 3; ++axis) ratio[axis] = spacing_mm[axis] / grid.spacing_mm[axis];
  Route way{grid.depth};
  if (!depth && enters_as_it_is(ratio)) return way;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (std::abs(ratio[axis] - 1) > rule_.tolerance + rule_.rounding_slack) way.zoom[axis] = ratio[axis];
  }
  return way;
}

bool Router::enters_as_it_is(const Triple& ratio) const {
  const auto [least, most] = std::minmax_element(ratio.begin(), ratio.end());
  const double finest = std::log2(*least), coarsest = std::log2(*most);
  return coarsest - finest <= rule_.as_is_anisotropy_octaves + rule_.rounding_slack &&
         std::max(std::abs(finest), std::abs(coarsest)) <= rule_.as_is_octaves + rule_.rounding_slack;
}

const Grid& Router::nearest(const Triple& spacing_mm) const {
  double finest = std::numeric_limits<double>::infinity();
  for (std::size_t axis = 0; axis < 3; ++axis) {
    finest = std::min(finest, std::log2(spacing_mm[axis] / rule_.trained_spacing_mm[axis]));
  }
  const double natural = std::floor(finest + 0.5);
  // the first among equals is the finer one, because the grids are in the order of their depths
  return *std::min_element(grids_.begin(), grids_.end(), [natural](const Grid& one, const Grid& other) {
    return std::abs(one.depth - natural) < std::abs(other.depth - natural);
  });
}

const Grid& Router::of_depth(int depth) const {
  std::string there;
  for (const Grid& grid : grids_) {
    if (grid.depth == depth) return grid;
    there += (there.empty() ? "" : ", ") + std::to_string(grid.depth);
  }
  throw Error(Fault::usage, "the bundle has no engine for this depth", {{}, std::to_string(depth), there});
}

}  // namespace rare
