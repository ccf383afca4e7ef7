#include "rare/bundle.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "rare/error.h"
#include "rare/schema.h"
#include "rare/sha256.h"

namespace rare {
namespace {

using nlohmann::json;

constexpr std::uintmax_t most_bytes = std::uintmax_t{1} << 29U;  // of a manifest
constexpr int deepest = 64;

[[noreturn]] void refuse(const std::string& found, const std::string& expected) {
  throw Error(Fault::model, "the bundle's manifest is invalid", {{}, found, expected});
}

HashedFile hashed_file(const json& content) { return {content.at("file"), content.at("sha256")}; }

PlanFacts plan_facts(const json& content) {
  PlanFacts plan{hashed_file(content), content.at("library"), content.at("version"), {}, content.at("shape_min"), content.at("shape_max")};
  if (!content.at("gpu").is_null()) plan.compute_capability = content.at("gpu").at("compute_capability").get<std::string>();
  return plan;
}

EngineFacts engine_facts(const json& content) {
  EngineFacts engine;
  engine.file = hashed_file(content);
  engine.entry = content.at("entry");
  engine.grid_spacing_mm = content.at("grid_spacing_mm");
  engine.input_name = content.at("input").at("name");
  engine.output_name = content.at("output").at("name");
  engine.divisors = content.at("divisors");
  engine.min_shape = content.at("min_shape");
  engine.patch_shape = content.at("patch_shape");
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (engine.min_shape[axis] % engine.divisors[axis] != 0 || engine.patch_shape[axis] % engine.divisors[axis] != 0 ||
        engine.min_shape[axis] > engine.patch_shape[axis]) {
      refuse("an engine's shapes " + times(engine.min_shape) + " and " + times(engine.patch_shape), "multiples of " + times(engine.divisors));
    }
  }
  if (!content.at("plan").is_null()) engine.plan = plan_facts(content.at("plan"));
  return engine;
}

OneRule one_rule(const json& content, std::size_t num_channels) {
  if (content.at("kind") == "z-score") return ZScoreNormalisation{};
  if (content.at("kind") == "none") return NoNormalisation{};
  if (content.at("kind") == "percentile") {
    const PercentileNormalisation rule{content.at("lower"), content.at("upper"), content.at("voxels") == "nonzero"};
    if (rule.lower >= rule.upper) refuse("percentiles " + std::to_string(rule.lower) + " and " + std::to_string(rule.upper), "lower < upper");
    return rule;
  }
  const CtNormalisation rule{content.at("lower"), content.at("upper"), content.at("mean"), content.at("std")};
  for (const auto* numbers : {&rule.lower, &rule.upper, &rule.mean, &rule.std}) {
    if (numbers->size() != num_channels) refuse(std::to_string(numbers->size()) + " numbers in ct", std::to_string(num_channels) + ", one per channel");
  }
  return rule;
}

Normalisation normalisation(const json& content, std::size_t num_channels) {
  if (content.at("kind") != "per-channel") {
    return std::visit([](const auto& rule) -> Normalisation { return rule; }, one_rule(content, num_channels));
  }
  PerChannelNormalisation found;
  for (const json& rule : content.at("rules")) found.rules.push_back(one_rule(rule, 1));
  if (found.rules.size() != num_channels) {
    refuse(std::to_string(found.rules.size()) + " rules of normalisation", std::to_string(num_channels) + ", one per channel");
  }
  return found;
}

/// What a schema cannot say: how the numbers of a specification suit each other, as in `rarecli/core/config`.
void require_consistent(const json& spec) {
  const json& plan = spec.at("plan");
  const json& network = spec.at("network");
  const json& values = plan.at("label_values");
  if (values.empty() || values.at(0) != 0) refuse("no label of value 0", "a background of value 0");
  if (values.size() != plan.at("label_names").size() || values.size() != network.at("num_classes")) {
    refuse(std::to_string(values.size()) + " label values", "one for each name and class");
  }
  if (plan.at("channel_names").size() != network.at("in_channels")) {
    refuse(std::to_string(plan.at("channel_names").size()) + " channels", "those of the network");
  }
  const std::size_t step = std::size_t{1} << plan.at("num_levels").get<std::size_t>();
  for (const std::size_t size : plan.at("patch_size").get<Shape>()) {
    if (size % step != 0 || size < 2 * step) refuse("a patch of " + std::to_string(size), "a multiple of " + std::to_string(step) + ", at least twice it");
  }
  const int num_depths = network.at("num_depths");
  if (num_depths > network.at("num_levels") || (network.at("arch") != "rare-unet" && num_depths != 1)) {
    refuse(std::to_string(num_depths) + " depths", "what the network has");
  }
}

/// What routing, engines and network say of each other.
void require_same_engines(const json& content, const std::vector<EngineFacts>& engines) {
  const json& network = content.at("spec").at("network");
  const json& routing = content.at("routing");
  std::vector<Entry> routed = routing.at("entries"), entries;
  int most = 0;
  for (const EngineFacts& engine : engines) {
    entries.push_back(engine.entry);
    most = std::max(most, *std::max_element(engine.entry.begin(), engine.entry.end()));
  }
  std::sort(entries.begin(), entries.end());
  std::sort(routed.begin(), routed.end());
  if (routed != entries || std::adjacent_find(entries.begin(), entries.end()) != entries.end()) {
    refuse("routing to other entries than those of the engines, or to one twice", "the same, each once");
  }
  if (most >= network.at("num_depths")) refuse("an engine of depth " + std::to_string(most), "depths of the network");
  if (routing.at("by") == "finest" && std::none_of(entries.begin(), entries.end(), is_isotropic)) {
    refuse("routing by the finest axis", "an entry with one depth along all axes");
  }
  for (const json& engine : content.at("engines")) {
    if (engine.at("input").at("shape").at(1) != network.at("in_channels") || engine.at("output").at("shape").at(1) != network.at("num_classes")) {
      refuse("tensors of another number of channels or classes", "those of the network");
    }
  }
}

Manifest manifest_of(const json& content) {
  require_consistent(content.at("spec"));
  const json& plan = content.at("spec").at("plan");
  const json& routing = content.at("routing");
  const json& resampling = content.at("resampling");
  const json& window = content.at("window");
  const json& network = content.at("spec").at("network");
  Manifest manifest;
  manifest.network = {network.at("in_channels"), network.at("num_classes"), network.at("num_filters"), network.at("num_levels"),
                      network.value("gateways", true)};
  manifest.num_channels = plan.at("channel_names").size();
  manifest.crop_to_content = plan.at("crop") == "nonzero";
  manifest.label_values = plan.at("label_values").get<std::vector<int>>();
  manifest.normalisation = normalisation(plan.at("normalisation"), manifest.num_channels);
  manifest.routing = {routing.at("trained_spacing_mm"),
                      routing.at("by") == "nearest" ? RouteBy::nearest : RouteBy::finest,
                      routing.at("tolerance"),
                      routing.at("as_is_octaves"),
                      routing.at("as_is_anisotropy_octaves"),
                      routing.at("rounding_slack")};
  manifest.resampling = {resampling.at("min_box_voxels"), resampling.at("max_step"), resampling.at("max_growth")};
  manifest.window = {window.at("overlap"), window.at("sigma"), window.at("min_weight"), window.at("padding_value")};
  if (!content.at("weights").is_null()) manifest.weights = hashed_file(content.at("weights"));
  for (const json& engine : content.at("engines")) manifest.engines.push_back(engine_facts(engine));
  require_same_engines(content, manifest.engines);
  for (const json& vector : content.at("conformance")) {
    manifest.conformance.push_back(
        {vector.at("entry"), hashed_file(vector.at("scan")), hashed_file(vector.at("labels")), hashed_file(vector.at("arrays"))});
  }
  return manifest;
}

json parsed(const std::filesystem::path& path) {
  std::error_code unknown;
  const auto status = std::filesystem::status(path, unknown);
  if (!std::filesystem::exists(status)) throw Error(Fault::model, "the file is missing", {{}, {}, "a folder made by rare export"});
  if (!std::filesystem::is_regular_file(status)) {  // a pipe would be waited for
    throw Error(Fault::model, "not a regular file", {{}, std::filesystem::is_directory(status) ? "a folder" : "a pipe or a device", "a text file"});
  }
  if (const auto size = std::filesystem::file_size(path); size > most_bytes) {
    throw Error(Fault::model, "the file is too large", {{}, std::to_string(size) + " bytes", "at most " + std::to_string(most_bytes)});
  }
  std::ifstream file(path);
  if (!file) throw Error(Fault::model, "the file cannot be read");
  const auto not_too_deep = [](int depth, json::parse_event_t, const json&) {
    if (depth > deepest) throw Error(Fault::model, "the file is nested too deeply", {{}, "over " + std::to_string(deepest) + " levels", "a few levels"});
    return true;
  };
  try {
    return json::parse(file, not_too_deep);
  } catch (const json::exception& error) {
    throw Error(Fault::model, "the file is not valid JSON", {{}, error.what(), {}});
  }
}

Manifest read_manifest(const std::filesystem::path& path) {
  try {
    json content = parsed(path);
    follow_schema(content);
    return manifest_of(content);
  } catch (const Error& error) {
    throw error.at(path.string());
  }
}

}  // namespace

Bundle::Bundle(std::filesystem::path folder) : folder_(std::move(folder)), manifest_(read_manifest(folder_ / "manifest.json")) {}

std::filesystem::path Bundle::file(const HashedFile& hashed) const {
  // judged as text: a cache may lay out every file as a link, and the SHA-256 guards the content
  const std::filesystem::path name(hashed.file);
  const auto path = folder_ / name;
  if (name.is_absolute() || std::find(name.begin(), name.end(), "..") != name.end()) {
    throw Error(Fault::model, "a path leaves the bundle", {(folder_ / "manifest.json").string(), hashed.file, "a file inside"});
  }
  if (!std::filesystem::is_regular_file(path)) throw Error(Fault::model, "a file of the bundle is missing", {path.string()});
  if (const std::string found = sha256(path); found != hashed.sha256) {
    throw Error(Fault::model, "a file of the bundle was changed", {path.string(), "SHA-256 " + found, hashed.sha256});
  }
  return path;
}

std::filesystem::path Bundle::onnx_file(const EngineFacts& engine) const {
  if (manifest_.weights) file(*manifest_.weights);
  return file(engine.file);
}

}  // namespace rare
