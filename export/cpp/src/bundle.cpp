#include "rare/bundle.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include <nlohmann/json.hpp>

#include "rare/error.h"
#include "rare/sha256.h"

namespace rare {
namespace {

using nlohmann::json;
constexpr int schema_version = 3;

/// A number, if it lies within bounds: those of export/manifest.schema.json.
template <class Number>
Number bounded(const json& entry, const char* name, double least, double most) {
  const json& value = entry.at(name);
  if (!value.is_number() || (std::is_integral_v<Number> && !value.is_number_integer()) || !(value.get<double>() >= least) ||
      !(value.get<double>() <= most)) {
    throw Error(Fault::model, "a number of the manifest is out of bounds",
                {{}, std::string(name) + " = " + value.dump().substr(0, 200), std::to_string(least) + " to " + std::to_string(most)});
  }
  return value.get<Number>();
}

template <class Numbers>
Numbers all_bounded(const json& entry, const char* name, double least, double most, std::size_t num) {
  const json& values = entry.at(name);
  if (!values.is_array() || values.size() != num) {
    throw Error(Fault::model, "a list of the manifest has another length",
                {{}, std::string(name) + " = " + values.dump().substr(0, 200), std::to_string(num) + " numbers"});
  }
  for (const json& value : values) bounded<typename Numbers::value_type>(json{{name, value}}, name, least, most);
  return values.get<Numbers>();
}

constexpr double most_size = 65536, most_spacing_mm = 1e6, least_positive = 1e-300;

HashedFile hashed_file(const json& entry) { return {entry.at("file"), entry.at("sha256")}; }

PlanFacts plan_facts(const json& entry) {
  PlanFacts plan{hashed_file(entry), entry.at("library"), entry.at("version"), {}, {}, {}};
  plan.shape_min = all_bounded<std::vector<std::size_t>>(entry, "shape_min", 1, most_size, 5);
  plan.shape_max = all_bounded<std::vector<std::size_t>>(entry, "shape_max", 1, most_size, 5);
  if (!entry.at("gpu").is_null()) plan.compute_capability = entry.at("gpu").at("compute_capability").get<std::string>();
  return plan;
}

EngineEntry engine_entry(const json& entry) {
  EngineEntry engine;
  engine.file = hashed_file(entry);
  engine.depth = bounded<int>(entry, "depth", 0, 9);
  engine.grid_spacing_mm = all_bounded<Triple>(entry, "grid_spacing_mm", least_positive, most_spacing_mm, 3);
  engine.input_name = entry.at("input").at("name");
  engine.output_name = entry.at("output").at("name");
  engine.divisors = all_bounded<Shape>(entry, "divisors", 1, most_size, 3);
  engine.min_shape = all_bounded<Shape>(entry, "min_shape", 1, most_size, 3);
  engine.patch_shape = all_bounded<Shape>(entry, "patch_shape", 1, most_size, 3);
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (engine.min_shape[axis] % engine.divisors[axis] != 0 || engine.patch_shape[axis] % engine.divisors[axis] != 0 ||
        engine.min_shape[axis] > engine.patch_shape[axis]) {
      throw Error(Fault::model, "an engine's shapes do not suit each other",
                  {{}, times(engine.min_shape) + " and " + times(engine.patch_shape), "multiples of " + times(engine.divisors)});
    }
  }
  if (!entry.at("plan").is_null()) engine.plan = plan_facts(entry.at("plan"));
  return engine;
}

Normalisation normalisation(const json& entry, std::size_t num_channels) {
  if (entry.at("kind") == "percentile") {
    const PercentileNormalisation rule{bounded<double>(entry, "lower", 0, 100), bounded<double>(entry, "upper", 0, 100)};
    if (rule.lower >= rule.upper) {
      throw Error(Fault::model, "the lower percentile is not below the upper one", {{}, entry.dump().substr(0, 200), "lower < upper"});
    }
    return rule;
  }
  if (entry.at("kind") == "ct") {
    constexpr double most = std::numeric_limits<float>::max();
    const auto numbers = [&](const char* name, double least) {
      return all_bounded<std::vector<float>>(entry, name, least, most, num_channels);
    };
    return CtNormalisation{numbers("lower", -most), numbers("upper", -most), numbers("mean", -most), numbers("std", least_positive)};
  }
  throw Error(Fault::model, "the manifest asks for an unknown normalisation", {{}, entry.at("kind"), "percentile or ct"});
}

Manifest manifest_of(const json& content) {
  const json& plan = content.at("spec").at("plan");
  const json& routing = content.at("routing");
  const json& window = content.at("window");
  Manifest manifest;
  manifest.num_channels = plan.at("channel_names").size();
  const std::size_t num_classes = plan.at("label_values").size();
  if (manifest.num_channels < 1 || manifest.num_channels > 1024 || num_classes < 2 || num_classes > 256) {
    throw Error(Fault::model, "the manifest has an impossible number of channels or classes",
                {{}, std::to_string(manifest.num_channels) + " and " + std::to_string(num_classes), "1 to 1024 and 2 to 256"});
  }
  manifest.label_values = all_bounded<std::vector<int>>(plan, "label_values", 0, std::numeric_limits<int>::max(), num_classes);
  manifest.normalisation = normalisation(plan.at("normalisation"), manifest.num_channels);
  manifest.routing = {all_bounded<Triple>(routing, "trained_spacing_mm", least_positive, most_spacing_mm, 3),
                      bounded<double>(routing, "tolerance", 0, 1), bounded<double>(routing, "as_is_octaves", 0, 1),
                      bounded<double>(routing, "as_is_anisotropy_octaves", 0, 1), bounded<double>(routing, "rounding_slack", 0, 1e-2)};
  const json& resampling = content.at("resampling");
  manifest.resampling = {bounded<double>(resampling, "min_box_voxels", 1, 64), bounded<double>(resampling, "max_step", 1, 256),
                         bounded<double>(resampling, "max_growth", 1, 4096)};
  manifest.window = {bounded<double>(window, "overlap", 0, 0.9), bounded<double>(window, "sigma", least_positive, 10),
                     bounded<double>(window, "min_weight", least_positive, 1), bounded<float>(window, "padding_value", -1e6, 1e6)};
  if (!content.at("weights").is_null()) manifest.weights = hashed_file(content.at("weights"));
  for (const json& entry : content.at("engines")) manifest.engines.push_back(engine_entry(entry));
  for (const json& entry : content.at("conformance")) {
    manifest.conformance.push_back(
        {entry.at("depth"), hashed_file(entry.at("scan")), hashed_file(entry.at("labels")), hashed_file(entry.at("arrays"))});
  }
  return manifest;
}

Manifest read_manifest(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw Error(Fault::model, "the bundle's manifest is missing", {path.string(), {}, "a folder made by rare export"});
  try {
    const json content = json::parse(file);
    const json& version = content.at("schema_version");
    if (version != schema_version) {
      throw Error(Fault::model, "the bundle is of an unknown schema version",
                  {path.string(), version.dump(), std::to_string(schema_version)});
    }
    return manifest_of(content);
  } catch (const json::exception& error) {
    throw Error(Fault::model, "the bundle's manifest is broken", {path.string(), error.what(), "export/manifest.schema.json"});
  }
}

}  // namespace

Bundle::Bundle(std::filesystem::path folder) : folder_(std::move(folder)), manifest_(read_manifest(folder_ / "manifest.json")) {}

std::filesystem::path Bundle::file(const HashedFile& entry) const {
  // judged as text: a cache may lay out every file as a link, and the SHA-256 guards the content
  const std::filesystem::path name(entry.file);
  const auto path = folder_ / name;
  if (name.is_absolute() || std::find(name.begin(), name.end(), "..") != name.end()) {
    throw Error(Fault::model, "a path leaves the bundle", {(folder_ / "manifest.json").string(), entry.file, "a file inside"});
  }
  if (!std::filesystem::is_regular_file(path)) throw Error(Fault::model, "a file of the bundle is missing", {path.string()});
  if (const std::string found = sha256(path); found != entry.sha256) {
    throw Error(Fault::model, "a file of the bundle was changed", {path.string(), "SHA-256 " + found, entry.sha256});
  }
  return path;
}

std::filesystem::path Bundle::onnx_file(const EngineEntry& engine) const {
  if (manifest_.weights) file(*manifest_.weights);
  return file(engine.file);
}

}  // namespace rare
