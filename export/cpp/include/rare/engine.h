#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rare/bundle.h"
#include "rare/router.h"

namespace rare {

/// The network at one entry, opened for windows with one shape.
class Engine {
 public:
  virtual ~Engine() = default;
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Computes `logits` (1, K, X, Y, Z) for `window` (1, C, X, Y, Z). Both are in C order and have the correct size.
  virtual void run(const std::vector<float>& window, std::vector<float>& logits) = 0;
};

/// Opens engines with openvino or tensorrt. Throws Error: usage for an unknown backend, environment for one not compiled in.
class Backend {
 public:
  explicit Backend(std::string name);

  /// Returns the grids of the bundle's engines that this backend can open.
  std::vector<Grid> grids(const Manifest& manifest) const;

  /// Opens the engine of one entry; the others stay closed. Throws Error: model or environment.
  std::unique_ptr<Engine> open(const Bundle& bundle, const Entry& entry, const Shape& window) const;

 private:
  std::string name_;
};

std::unique_ptr<Engine> open_openvino(const Bundle& bundle, const EngineFacts& engine, const Shape& window);
std::unique_ptr<Engine> open_tensorrt(const Bundle& bundle, const EngineFacts& engine, const Shape& window);

/// Returns what the manifest says of the engine of an entry.
const EngineFacts& engine_facts(const Manifest& manifest, const Entry& entry);

}  // namespace rare
