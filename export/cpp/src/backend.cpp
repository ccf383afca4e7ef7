#include <algorithm>
#include <utility>

#include "rare/engine.h"
#include "rare/error.h"

namespace rare {
namespace {

#ifdef RARE_OPENVINO
constexpr bool has_openvino = true;
#else
constexpr bool has_openvino = false;
#endif
#ifdef RARE_TENSORRT
constexpr bool has_tensorrt = true;
#else
constexpr bool has_tensorrt = false;
#endif

bool is_compiled_in(const std::string& name) { return (has_openvino && name == "openvino") || (has_tensorrt && name == "tensorrt"); }

}  // namespace

Backend::Backend(std::string name) : name_(std::move(name)) {
  if (name_ != "openvino" && name_ != "tensorrt") throw Error(Fault::usage, "unknown backend", {{}, name_, "openvino or tensorrt"});
  if (!is_compiled_in(name_)) {
    throw Error(Fault::environment, "this program was built without " + name_,
                {{}, {}, "a build with -DRARE_OPENVINO=ON or -DRARE_TENSORRT=ON"});
  }
}

std::vector<Grid> Backend::grids(const Manifest& manifest) const {
  std::vector<Grid> grids;
  for (const EngineFacts& engine : manifest.engines) {
    if (name_ == "openvino" || engine.plan) grids.push_back({engine.entry, engine.grid_spacing_mm});
  }
  if (grids.empty()) throw Error(Fault::usage, "the bundle has no TensorRT plans", {{}, {}, "rare export --format onnx,tensorrt"});
  return grids;
}

std::unique_ptr<Engine> Backend::open(const Bundle& bundle, const Entry& entry, const Shape& window) const {
  [[maybe_unused]] const EngineFacts& engine = engine_facts(bundle.manifest(), entry);
#ifdef RARE_OPENVINO
  if (name_ == "openvino") return open_openvino(bundle, engine, window);
#endif
#ifdef RARE_TENSORRT
  if (name_ == "tensorrt") return open_tensorrt(bundle, engine, window);
#endif
  throw Error(Fault::bug, "a backend was accepted but is not compiled in", {{}, name_, times(window)});
}

const EngineFacts& engine_facts(const Manifest& manifest, const Entry& entry) {
  const auto& engines = manifest.engines;
  const auto found = std::find_if(engines.begin(), engines.end(), [&](const auto& engine) { return engine.entry == entry; });
  if (found == engines.end()) throw Error(Fault::usage, "the bundle has no engine for this entry", {{}, entry_text(entry), {}});
  return *found;
}

}  // namespace rare
