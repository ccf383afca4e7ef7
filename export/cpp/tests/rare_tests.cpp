// rare_tests ROUTING_CASES BUNDLE: the golden routing cases, rules with values by hand, and the bundle's conformance vectors.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "rare/bounds.h"
#include "rare/error.h"
#include "rare/normalisation.h"
#include "rare/resampling.h"
#include "rare/segmentation.h"
#include "rare/windows.h"

namespace {

using nlohmann::json;
using rare::RouteBy;

void check(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

int exit_code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const rare::Error& error) {
    return error.exit_code();
  }
  return 0;
}

/// The grids of entries on a trained grid of `trained` mm.
std::vector<rare::Grid> grids_of(const rare::Triple& trained, const std::vector<rare::Entry>& entries) {
  std::vector<rare::Grid> grids;
  for (const rare::Entry& entry : entries) {
    rare::Grid grid{entry, trained};
    for (std::size_t axis = 0; axis < 3; ++axis) grid.spacing_mm[axis] *= std::pow(2.0, entry[axis]);
    grids.push_back(grid);
  }
  return grids;
}

void require_route(const rare::Router& router, const json& each, const rare::Entry& entry) {
  const std::string why = each.at("why");
  const rare::Route route = router.route(each.at("spacing_mm"));
  check(route.entry == entry, why + ": " + rare::entry_text(route.entry));
  for (std::size_t axis = 0; axis < 3; ++axis) {
    check((route.zoom[axis] != 1) == each.at("resampled").at(axis).get<bool>(), why + ": resampled");
  }
}

void the_finest_axis_follows_the_golden_cases(const json& golden) {
  const rare::Triple trained = golden.at("trained_spacing_mm");
  const auto grids = grids_of(trained, {{0, 0, 0}, {1, 1, 1}, {2, 2, 2}, {3, 3, 3}});
  const rare::Router router({trained, RouteBy::finest, golden.at("tolerance"), 0, 0.2, 1e-6}, grids);
  const rare::Router learned({trained, RouteBy::finest, golden.at("tolerance"), golden.at("as_is_octaves"), 0.2, 1e-6}, grids);
  check(golden.at("cases").size() >= 20 && golden.at("as_is_cases").size() >= 9, "the golden cases are there");
  for (const auto& [list, one] : {std::pair{"cases", &router}, std::pair{"as_is_cases", &learned}}) {
    for (const json& each : golden.at(list)) {
      const int depth = each.at("depth");
      require_route(*one, each, {depth, depth, depth});
    }
  }
  check(learned.route({1.4, 1.4, 2.8}, rare::Entry{0, 0, 0}).zoom[0] != 1, "a forced entry brings the scan to its grid");
  check(exit_code_of([&] { router.route({1, 0, 1}); }) == 3, "a spacing of 0 is refused");
  check(exit_code_of([&] { router.route({1, 1, 1}, rare::Entry{9, 9, 9}); }) == 2, "an entry that is not there is refused");
  check(router.route({1, 1, 2}, rare::Entry{2, 2, 2}).entry == rare::Entry{2, 2, 2}, "an entry can be forced");
}

void the_nearest_entry_follows_the_golden_cases(const json& golden) {
  const rare::Triple trained = golden.at("trained_spacing_mm");
  const json& nearest = golden.at("nearest");
  const rare::RoutingRule rule{trained, RouteBy::nearest, golden.at("tolerance"), nearest.at("as_is_octaves"), 0.2, 1e-6};
  const rare::Router router(rule, grids_of(trained, nearest.at("entries")));
  check(nearest.at("cases").size() >= 22 && nearest.at("other_entries").size() >= 8, "the golden cases are there");
  for (const json& each : nearest.at("cases")) require_route(router, each, each.at("entry"));
  for (const json& each : nearest.at("other_entries")) {
    require_route(rare::Router(rule, grids_of(trained, each.at("entries"))), each, each.at("entry"));
  }
  check(router.route({1.4, 1.4, 2.8}, rare::Entry{0, 0, 0}).zoom[0] != 1, "a forced entry brings the scan to its grid");
}

void a_missing_depth_gives_way_to_the_nearest_the_finer_of_two() {
  const rare::Router router({{1, 1, 1}, RouteBy::finest, 0.1, 0, 0.2, 1e-6}, grids_of({1, 1, 1}, {{0, 0, 3}, {3, 3, 3}, {1, 1, 1}}));
  check(router.route({1, 1, 1}).entry == rare::Entry{1, 1, 1}, "0 -> 1, not 0,0,3");
  check(router.route({4, 4, 4}).entry == rare::Entry{1, 1, 1}, "2 -> 1, not 3");
  check(router.route({8, 8, 8}).entry == rare::Entry{3, 3, 3}, "3 -> 3");
}

void a_short_axis_is_enlarged_to_a_valid_size() {
  rare::EngineFacts engine;
  engine.divisors = {16, 16, 4};
  engine.min_shape = {32, 32, 8};
  engine.patch_shape = {64, 64, 16};
  check(rare::window_shape({33, 5, 9}, engine) == rare::Shape{48, 32, 12}, "multiples of the divisors");
  check(rare::window_shape({65, 64, 1}, engine) == rare::Shape{64, 64, 8}, "at most the patch");
  engine.divisors = {1, 1, 1};
  engine.min_shape = {17, 17, 5};
  check(rare::window_shape({33, 5, 9}, engine) == rare::Shape{33, 17, 9}, "any size, at least the least");
}

void windows_start_evenly() {
  using Starts = std::vector<std::size_t>;
  check(rare::window_starts(8, 8, 0.5) == Starts{0}, "one window");
  check(rare::window_starts(10, 8, 0.5) == Starts{0, 2}, "two windows");
  check(rare::window_starts(17, 8, 0.5) == Starts{0, 3, 6, 9}, "four windows, 9 / 3 apart");
  check(rare::window_starts(15, 8, 0.5) == Starts{0, 4, 7}, "3.5 is rounded up");
}

rare::Image line_of(std::vector<float> values) {
  const std::size_t size = values.size();
  return {1, {size, 1, 1}, std::move(values)};
}

void percentiles_are_linear_between_order_statistics() {
  rare::Image image = line_of({40, 0, 30, 10, 20});
  rare::normalise(image, rare::PercentileNormalisation{12.5, 75});  // 5 and 30
  check(image.values == std::vector<float>{1, 0, 1, 0.2F, 0.6F}, "percentiles 12.5 and 75 of 0, 10, 20, 30, 40");
  rare::Image constant = line_of({7, 7});
  rare::normalise(constant, rare::PercentileNormalisation{0.5, 99.5});
  check(constant.values == std::vector<float>{0, 0}, "a constant channel becomes 0");
}

void ct_is_clipped_and_standardised() {
  rare::Image image{2, {2, 1, 1}, {-1000, 50, 0, 900}};
  rare::normalise(image, rare::CtNormalisation{{-100, 0}, {100, 500}, {0, 100}, {50, 200}});
  check(image.values == std::vector<float>{-2, 1, -0.5F, 2}, "per channel: clip, minus mean, over std");
}

void a_z_score_is_by_the_standard_deviation_of_the_population() {
  rare::Image image = line_of({1, 3, 5, 7});
  rare::normalise(image, rare::ZScoreNormalisation{});  // mean 4, variance (9 + 1 + 1 + 9) / 4 = 5
  const auto near = [](float value, double expected) { return std::abs(value - expected) < 1e-6; };
  check(near(image.values.at(0), -3 / std::sqrt(5.0)) && near(image.values.at(2), 1 / std::sqrt(5.0)), "-3 and 1 over the root of 5");
  rare::Image constant = line_of({0.1F, 0.1F, 0.1F});
  rare::normalise(constant, rare::ZScoreNormalisation{});
  check(constant.values == std::vector<float>{0, 0, 0}, "a constant channel becomes 0");
}

void every_channel_may_have_a_rule_of_its_own() {
  rare::Image image{3, {2, 1, 1}, {3, 9, -1000, 50, 2, 4}};
  const rare::CtNormalisation ct{{-100}, {100}, {0}, {50}};
  rare::normalise(image, rare::PerChannelNormalisation{{rare::NoNormalisation{}, ct, rare::PercentileNormalisation{0, 100}}});
  check(image.values == std::vector<float>{3, 9, -2, 1, 0, 1}, "none, ct, from the least to the largest value");
}

void a_coarser_voxel_is_the_mean_over_its_box() {
  check(rare::resample(line_of({0, 2, 4, 6}), {0.5, 1, 1}, {1, 256, 4096}).values == std::vector<float>{1, 5}, "pairs");
  // boxes of 1.5 voxels: 1 and half of 4; half of 4 and 7
  const rare::Image image = rare::resample(line_of({1, 4, 7}), {2.0 / 3, 1, 1}, {1, 256, 4096});
  check(std::abs(image.values.at(0) - 2) < 1e-6 && std::abs(image.values.at(1) - 6) < 1e-6, "one and a half");
  // refined twice: linear between the middles, the ends repeated
  check(rare::resample(line_of({0, 4}), {2, 1, 1}, {1, 256, 4096}).values == std::vector<float>{0, 1, 3, 4}, "linear");
  check(rare::nearest_indices(4, 2, 0.5) == std::vector<std::size_t>{0, 0, 1, 1}, "the way back");
}

void a_scan_is_cropped_to_what_is_not_zero() {
  // 4 x 3 x 1 voxels of two channels, X fastest; content at (1, 1) in the first channel and at (2, 2) in the second
  const rare::Shape shape{4, 3, 1};
  std::vector<float> voxels{0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -6, 0};
  const rare::Box box = rare::content_box(voxels, 2, shape);
  check(!box.empty && box.first == rare::Shape{1, 1, 0} && box.last == rare::Shape{2, 2, 0}, "the box");
  const std::vector<std::int32_t> placed = rare::place({1, 2, 3, 4}, {2, 2, 1}, {shape, box.first});
  check(placed == std::vector<std::int32_t>{0, 0, 0, 0, 0, 1, 2, 0, 0, 3, 4, 0}, "labels on the whole scan");
  voxels.assign(24, 0);
  check(rare::content_box(voxels, 2, shape).empty, "nothing but zeros");
}

void the_percentiles_may_be_those_of_what_is_not_zero() {
  rare::PercentileNormalisation rule{0, 50, true};
  rare::Image image = line_of({0, 0, 0, 2, 4, 6});
  rare::normalise(image, rule);  // of 2, 4, 6: 2 and 4
  check(image.values == std::vector<float>{0, 0, 0, 0, 1, 1}, "2 becomes 0 and 4 becomes 1");
  image = line_of({0, 0, 0});
  rare::normalise(image, rule);
  check(image.values == std::vector<float>{0, 0, 0}, "nothing but zeros");
}

void the_mean_probability_decides_where_a_voxel_holds_several() {
  rare::Manifest manifest;
  manifest.label_values = {0, 7};
  manifest.resampling = {1, 256, 4096};
  const rare::Orientation as_it_is({{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}}});
  rare::RoutedScan routed{line_of({0, 0, 0, 0}), {}, as_it_is, {2, 1, 1}, {{2, 1, 1}, {}}};
  routed.route.zoom = {2, 1, 1};
  // probabilities of the label: .9 and .2, of which the nearest alone would be background; .6 and .1
  const auto logit = [](double probability) { return static_cast<float>(std::log(probability / (1 - probability))); };
  const rare::Image logits{2, {4, 1, 1}, {0, 0, 0, 0, logit(0.9), logit(0.2), logit(0.6), logit(0.1)}};
  const rare::Image scores = rare::voxel_scores(logits, manifest, routed);
  check(scores.shape == rare::Shape{2, 1, 1}, "the scan's own size");
  check(std::abs(scores.values.at(2) - 0.55) < 1e-6 && std::abs(scores.values.at(3) - 0.35) < 1e-6, "means of two");
  check(rare::segment(logits, manifest, routed) == std::vector<std::int32_t>{7, 0}, "the better mean");
}

void what_a_scan_costs_is_known_from_its_sizes() {
  // one filter, one level: 28 + 28 + 4 weights at level 0, 56 + 110 + 8 at level 1, 55 + 55 + 2 on the way up, 4 in the head: 350;
  // the largest layer reads two maps of eight voxels and writes one: 24
  check(rare::least_engine_bytes({1, 2, 1, 1}, {0, 0, 0}, {2, 2, 2}) == 4 * (350 + 24), "weights and largest layer");
  // a lone voxel is still one at level 1, where a convolution reads and writes two maps of it
  check(rare::least_engine_bytes({1, 2, 1, 1}, {0, 0, 0}, {1, 1, 1}) == 4 * (350 + 4), "sizes are rounded up");
  // two levels: 60 + 174 + 672 weights on the way down, 440 + 112 on the way up, 4 in the head. z is not halved before level 1, where a
  // convolution reads four maps of four voxels and writes two
  check(rare::least_engine_bytes({1, 2, 1, 2}, {0, 0, 1}, {1, 1, 4}) == 4 * (1462 + 24), "a coarse axis is halved later");
  // without gateways the levels 0 and 1 have one grid of 64 voxels. On the way up, a convolution of level 1 reads four maps and writes two
  check(rare::least_engine_bytes({1, 2, 1, 2, false}, {1, 1, 1}, {4, 4, 4}) == 4 * (1462 + 384), "all levels run");
  rare::EngineFacts engine;
  engine.divisors = {16, 16, 16};
  engine.min_shape = {32, 32, 32};
  engine.patch_shape = {64, 64, 64};
  const rare::WindowRule rule{0.5, 0.125, 1e-4, 0};
  const auto code = [&](const rare::Shape& shape) { return exit_code_of([&] { rare::require_no_thread(shape, engine, rule); }); };
  check(code({8224, 1, 1}) == 0 && code({8225, 1, 1}) == 3, "256 windows of 64, 32 apart, and 257");
  check(code({32767, 32, 1}) == 0 && code({32767, 31, 1}) == 3, "padding makes it 32 times as many voxels, and more");
  check(code({512, 512, 1}) == 0, "a slice");
}

void axes_are_turned_as_the_affine_says() {
  // array axes point left, superior, anterior
  const rare::Orientation orientation({{{-1, 0, 0, 0}, {0, 0, 3, 0}, {0, 2, 0, 0}}});
  check(orientation.ras(rare::Shape{2, 3, 4}) == rare::Shape{2, 4, 3}, "shape");
  check(orientation.ras(rare::Triple{1, 2, 3}) == rare::Triple{1, 3, 2}, "spacing");
  const auto [start, steps] = orientation.strides({2, 3, 4});
  check(start == 1, "RAS voxel 0 is the last along x");
  check(steps[0] == -1 && steps[1] == 6 && steps[2] == 2, "steps along right, anterior, superior");
}

/// The float32 arrays of a safetensors file: 8 bytes that say how long the JSON header is, the header, the arrays.
std::vector<float> read_array(const std::filesystem::path& path, const std::string& name) {
  std::ifstream file(path, std::ios::binary);
  std::uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), sizeof(length));
  std::string header(length, ' ');
  file.read(header.data(), static_cast<std::streamsize>(length));
  const json entry = json::parse(header).at(name);
  check(entry.at("dtype") == "F32", name + " is float32");
  const std::array<std::size_t, 2> range = entry.at("data_offsets");
  std::vector<float> values((range[1] - range[0]) / sizeof(float));
  file.seekg(static_cast<std::streamoff>(sizeof(length) + length + range[0]));
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(range[1] - range[0]));
  check(file.good(), name + " is whole");
  return values;
}

float largest_difference(const std::vector<float>& one, const std::vector<float>& other) {
  check(one.size() == other.size(), "as many values");
  float largest = 0;
  for (std::size_t index = 0; index < one.size(); ++index) largest = std::max(largest, std::abs(one[index] - other[index]));
  return largest;
}

/// 1 where the two best scores are closer than they may be off: there the label is open.
std::vector<std::int32_t> open_voxels(const rare::Image& scores, float margin) {
  const std::size_t size = rare::num_voxels(scores.shape);
  std::vector<std::int32_t> open(size);
  for (std::size_t voxel = 0; voxel < size; ++voxel) {
    std::vector<float> here;
    for (std::size_t index = 0; index < scores.num_channels; ++index) here.push_back(scores.values[index * size + voxel]);
    std::sort(here.rbegin(), here.rend());
    open[voxel] = here[0] - here[1] <= margin ? 1 : 0;
  }
  return open;
}

void the_bundle_conforms(const std::string& folder, const std::string& backend_name) {
  const rare::Bundle bundle(folder);
  const rare::Manifest& manifest = bundle.manifest();
  const rare::Backend backend(backend_name);
  check(!manifest.conformance.empty(), "the bundle has conformance vectors");
  const auto content = nlohmann::json::parse(std::ifstream(folder + "/manifest.json"));
  const float share = content.at("engines").at(0).at("parity").at("tolerance_rel");  // that of the bundle's precision
  for (const rare::ConformanceVector& vector : manifest.conformance) {
    const std::string where = rare::entry_text(vector.entry) + ": ";
    const rare::Volume scan = rare::read_volume(bundle.file(vector.scan));
    const rare::RoutedScan routed = rare::prepare(scan, manifest, backend.grids(manifest));
    check(routed.route.entry == vector.entry, where + "routed to a different entry");
    const auto arrays = bundle.file(vector.arrays);
    check(largest_difference(routed.image.values, read_array(arrays, "image")) <= 1e-5F, where + "the scan is prepared differently");

    const rare::Shape window = rare::window_shape(routed.image.shape, rare::engine_facts(manifest, vector.entry));
    const auto engine = backend.open(bundle, vector.entry, window);
    const std::size_t num_classes = manifest.label_values.size();
    const rare::Image logits = rare::sliding_logits(routed.image, num_classes, window, manifest.window, *engine);
    const std::vector<float> expected = read_array(arrays, "logits");
    float tolerance = 0;
    for (const float logit : expected) tolerance = std::max(tolerance, share * std::abs(logit));
    const float off = largest_difference(logits.values, expected);
    check(off <= tolerance, where + "logits off by " + std::to_string(off));

    const auto labels = rare::segment(logits, manifest, routed);
    const rare::Image scores = rare::voxel_scores({num_classes, routed.image.shape, expected}, manifest, routed);
    // two logits that are off come closer by twice the tolerance at most, two probabilities by less
    const auto open = rare::restore(open_voxels(scores, 2 * tolerance), scores.shape, routed);
    const rare::Volume right = rare::read_volume(bundle.file(vector.labels));
    for (std::size_t voxel = 0; voxel < labels.size(); ++voxel) {
      check(open[voxel] == 1 || static_cast<float>(labels[voxel]) == right.voxels.at(voxel), where + "a label is wrong");
    }
    std::cout << where << "logits within " << off << ", labels correct\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() < 2) {
    std::cerr << "rare_tests ROUTING_CASES BUNDLE [openvino|tensorrt]\n";
    return 2;
  }
  try {
    const json golden = json::parse(std::ifstream(words[0]));
    the_finest_axis_follows_the_golden_cases(golden);
    the_nearest_entry_follows_the_golden_cases(golden);
    a_missing_depth_gives_way_to_the_nearest_the_finer_of_two();
    a_short_axis_is_enlarged_to_a_valid_size();
    windows_start_evenly();
    percentiles_are_linear_between_order_statistics();
    ct_is_clipped_and_standardised();
    a_z_score_is_by_the_standard_deviation_of_the_population();
    every_channel_may_have_a_rule_of_its_own();
    a_coarser_voxel_is_the_mean_over_its_box();
    a_scan_is_cropped_to_what_is_not_zero();
    the_percentiles_may_be_those_of_what_is_not_zero();
    the_mean_probability_decides_where_a_voxel_holds_several();
    what_a_scan_costs_is_known_from_its_sizes();
    axes_are_turned_as_the_affine_says();
    the_bundle_conforms(words[1], words.size() > 2 ? words[2] : "openvino");
  } catch (const std::exception& error) {
    std::cerr << "failed: " << error.what() << "\n";
    return 1;
  }
  std::cout << "all passed\n";
  return 0;
}
