#include "rare/bundle.h"

#include <fstream>
#include <utility>

#include <nlohmann/json.hpp>

#include "rare/error.h"
#include "rare/sha256.h"

namespace rare {
namespace {

using nlohmann::json;
constexpr int schema_version = 3;

HashedFile hashed_file(const json& entry) { return {entry.at("file"), entry.at("sha256")}; }

PlanFacts plan_facts(const json& entry) {
  PlanFacts plan{hashed_file(entry), entry.at("library"), entry.at("version"), {}, entry.at("shape_min"), entry.at("shape_max")};
  if (!entry.at("gpu").is_null()) plan.compute_capability = entry.at("gpu").at("compute_capability").get<std::string>();
  return plan;
}

EngineEntry engine_entry(const json& entry) {
  EngineEntry engine{hashed_file(entry),           entry.at("depth"),    entry.at("grid_spacing_mm"), entry.at("input").at("name"),
                     entry.at("output").at("name"), entry.at("divisors"), entry.at("min_shape"),       entry.at("patch_shape"),
                     {}};
  if (!entry.at("plan").is_null()) engine.plan = plan_facts(entry.at("plan"));
  return engine;
}

Normalisation normalisation(const json& entry) {
  if (entry.at("kind") == "percentile") return PercentileNormalisation{entry.at("lower"), entry.at("upper")};
  if (entry.at("kind") == "ct") return CtNormalisation{entry.at("lower"), entry.at("upper"), entry.at("mean"), entry.at("std")};
  throw Error(Fault::model, "the manifest asks for an unknown normalisation", {{}, entry.at("kind"), "percentile or ct"});
}

Manifest manifest_of(const json& content) {
  const json& plan = content.at("spec").at("plan");
  const json& routing = content.at("routing");
  const json& window = content.at("window");
  Manifest manifest;
  manifest.num_channels = plan.at("channel_names").size();
  manifest.label_values = plan.at("label_values").get<std::vector<int>>();
  manifest.normalisation = normalisation(plan.at("normalisation"));
  manifest.routing = {routing.at("trained_spacing_mm"), routing.at("tolerance"), routing.at("as_is_octaves"),
                      routing.at("as_is_anisotropy_octaves"), routing.at("rounding_slack")};
  manifest.min_box_voxels = content.at("resampling").at("min_box_voxels");
  manifest.window = {window.at("overlap"), window.at("sigma"), window.at("min_weight"), window.at("padding_value")};
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
  const auto root = std::filesystem::weakly_canonical(folder_);
  const auto path = std::filesystem::weakly_canonical(root / entry.file);
  const auto inside = path.lexically_relative(root);
  if (inside.empty() || *inside.begin() == "..") {
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
