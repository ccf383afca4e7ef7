#include "rare/router.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>

#include "rare/error.h"

namespace rare {
namespace {

constexpr double tie_octaves = 1e-6;  // distances that differ by less are equal: their last bits depend on the order of a sum

/// The depth where an axis belongs. It may lie outside of the network.
double wanted(double octaves) { return std::floor(octaves + 0.5); }

/// The grid with the least cost, the first among equals.
template <class Cost>
const Grid& cheapest(const std::vector<Grid>& grids, Cost cost) {
  const auto cheaper = [&](const Grid& one, const Grid& other) { return cost(one.entry) < cost(other.entry); };
  return *std::min_element(grids.begin(), grids.end(), cheaper);
}

}  // namespace

Router::Router(const RoutingRule& rule, std::vector<Grid> grids) : rule_(rule), grids_(std::move(grids)) {
  if (grids_.empty()) throw Error(Fault::model, "the bundle has no engines");
  // so that the first among equals has the smaller depth along x, then y
  std::sort(grids_.begin(), grids_.end(), [](const Grid& one, const Grid& other) { return one.entry < other.entry; });
}

Route Router::route(const Triple& spacing_mm, std::optional<Entry> entry) const {
  if (!std::all_of(spacing_mm.begin(), spacing_mm.end(), [](double s) { return std::isfinite(s) && s > 0; })) {
    throw Error(Fault::data, "the spacing is not finite and positive", {{}, times(spacing_mm), "millimetres > 0"});
  }
  Triple octaves{}, ratio{};
  for (std::size_t axis = 0; axis < 3; ++axis) octaves[axis] = std::log2(spacing_mm[axis] / rule_.trained_spacing_mm[axis]);
  const Grid& grid = entry ? of_entry(*entry) : rule_.by == RouteBy::nearest ? nearest(octaves) : finest(octaves);
  for (std::size_t axis = 0; axis < 3; ++axis) ratio[axis] = spacing_mm[axis] / grid.spacing_mm[axis];
  const std::array<bool, 3> as_it_is = entry ? std::array<bool, 3>{} : as_they_are(ratio);
  Route way{grid.entry};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (!as_it_is[axis] && std::abs(ratio[axis] - 1) > rule_.tolerance + rule_.rounding_slack) way.zoom[axis] = ratio[axis];
  }
  return way;
}

const Grid& Router::nearest(const Triple& octaves) const {
  Entry least = grids_.front().entry;
  for (const Grid& grid : grids_) {
    for (std::size_t axis = 0; axis < 3; ++axis) least[axis] = std::min(least[axis], grid.entry[axis]);
  }
  Triple belongs{};  // an axis finer than all entries belongs to their finest depth
  for (std::size_t axis = 0; axis < 3; ++axis) belongs[axis] = std::max<double>(wanted(octaves[axis]), least[axis]);
  return cheapest(grids_, [&](const Entry& entry) {
    bool deeper = false;
    double steps = 0, distance = 0;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      deeper = deeper || entry[axis] > belongs[axis];
      steps += std::abs(belongs[axis] - entry[axis]);
      distance += std::abs(octaves[axis] - entry[axis]);
    }
    return std::tuple{deeper, steps, std::floor(distance / tie_octaves + 0.5)};
  });
}

const Grid& Router::finest(const Triple& octaves) const {
  const double depth = wanted(*std::min_element(octaves.begin(), octaves.end()));
  return cheapest(grids_, [depth](const Entry& entry) { return std::tuple{!is_isotropic(entry), std::abs(entry[0] - depth)}; });
}

const Grid& Router::of_entry(const Entry& entry) const {
  std::string there;
  for (const Grid& grid : grids_) {
    if (grid.entry == entry) return grid;
    there += (there.empty() ? "" : ", ") + entry_text(grid.entry);
  }
  throw Error(Fault::usage, "the bundle has no engine for this entry", {{}, entry_text(entry), there});
}

std::array<bool, 3> Router::as_they_are(const Triple& ratio) const {
  Triple octaves{};
  std::array<bool, 3> near{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    octaves[axis] = std::log2(ratio[axis]);
    near[axis] = std::abs(octaves[axis]) <= rule_.as_is_octaves + rule_.rounding_slack;
  }
  if (rule_.by == RouteBy::nearest) return near;
  const auto [least, most] = std::minmax_element(octaves.begin(), octaves.end());
  const bool alike = *most - *least <= rule_.as_is_anisotropy_octaves + rule_.rounding_slack;
  const bool all = alike && near[0] && near[1] && near[2];
  return {all, all, all};
}

}  // namespace rare
