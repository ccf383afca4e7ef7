#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "rare/entry.h"
#include "rare/image.h"
#include "rare/resampling.h"

namespace rare {

/// The parts of manifest.json that are needed here. The names are those of `export/manifest.schema.json`.
struct HashedFile {
  std::string file;
  std::string sha256;
};

struct PlanFacts {
  HashedFile file;
  std::string library;
  std::string version;
  std::optional<std::string> compute_capability;  ///< none: built without a GPU
  std::vector<std::size_t> shape_min, shape_max;  ///< (B, C, X, Y, Z)
};

struct EngineFacts {
  HashedFile file;
  Entry entry{};
  Triple grid_spacing_mm{};
  std::string input_name, output_name;
  Shape divisors{}, min_shape{}, patch_shape{};
  std::optional<PlanFacts> plan;
};

enum class RouteBy { nearest, finest };

struct RoutingRule {
  Triple trained_spacing_mm{};
  RouteBy by = RouteBy::nearest;
  double tolerance = 0;
  double as_is_octaves = 0;
  double as_is_anisotropy_octaves = 0;
  double rounding_slack = 0;
};

struct WindowRule {
  double overlap = 0, sigma = 0, min_weight = 0;
  float padding_value = 0;
};

struct PercentileNormalisation {
  double lower = 0, upper = 0;
  bool of_nonzero = false;  ///< of the voxels that differ from 0
};

struct CtNormalisation {
  std::vector<float> lower, upper, mean, std;  ///< per channel
};

struct ZScoreNormalisation {};
struct NoNormalisation {};

using OneRule = std::variant<PercentileNormalisation, CtNormalisation, ZScoreNormalisation, NoNormalisation>;

struct PerChannelNormalisation {
  std::vector<OneRule> rules;  ///< each as if its channel were the only one
};

using Normalisation = std::variant<PercentileNormalisation, CtNormalisation, ZScoreNormalisation, NoNormalisation, PerChannelNormalisation>;

struct ConformanceVector {
  Entry entry{};
  HashedFile scan, labels, arrays;
};

/// The network's size: what an engine costs.
struct NetworkFacts {
  double num_channels = 1, num_classes = 2, num_filters = 1;
  int num_levels = 1;
  bool gateways = true;  ///< Without them, every scan enters at level 0.
};

struct Manifest {
  NetworkFacts network;
  std::size_t num_channels = 0;
  bool crop_to_content = false;
  std::vector<int> label_values;  ///< of each class; their number is K
  Normalisation normalisation;
  RoutingRule routing;
  ResamplingRule resampling;
  WindowRule window;
  std::optional<HashedFile> weights;
  std::vector<EngineFacts> engines;
  std::vector<ConformanceVector> conformance;
};

/// A bundle on disk. A file is compared with the manifest when it is used, so only files in use are hashed.
class Bundle {
 public:
  /// Reads the manifest. Throws Error (model) if it is missing, broken or has a different schema version.
  explicit Bundle(std::filesystem::path folder);

  const Manifest& manifest() const { return manifest_; }

  /// Returns the path of a file. Throws Error (model) if it is missing, was changed, or is outside the bundle.
  std::filesystem::path file(const HashedFile& hashed) const;

  /// Returns the path of an engine's ONNX graph. The graph and its shared weights are compared with the manifest.
  std::filesystem::path onnx_file(const EngineFacts& engine) const;

 private:
  std::filesystem::path folder_;
  Manifest manifest_;
};

}  // namespace rare
