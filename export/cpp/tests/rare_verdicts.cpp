// rare_verdicts BUNDLE: reads paths from stdin, one a line, and prints the verdict on each file as one line of JSON. For tests of many files.
// A scan: exit code and problem, or shape, affine, checksum of the voxels, entry and shape in the bundle.
// A manifest.json: exit code and problem; an accepted one is put to work.

#include <ctime>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <zlib.h>

#include "rare/bounds.h"
#include "rare/error.h"
#include "rare/normalisation.h"
#include "rare/resampling.h"
#include "rare/segmentation.h"
#include "rare/windows.h"

namespace {

using nlohmann::json;

std::vector<rare::Grid> grids_of(const rare::Manifest& manifest) {
  std::vector<rare::Grid> grids;
  for (const rare::EngineFacts& engine : manifest.engines) grids.push_back({engine.entry, engine.grid_spacing_mm});
  return grids;
}

json read_scan(const std::filesystem::path& path, const rare::Manifest& manifest) {
  const rare::Volume volume = rare::read_volume(path);
  uLong sum = crc32(0, nullptr, 0);
  constexpr std::size_t piece = std::size_t{1} << 20U;
  for (std::size_t first = 0; first < volume.voxels.size(); first += piece) {
    const std::size_t num = std::min(piece, volume.voxels.size() - first);
    sum = crc32(sum, reinterpret_cast<const Bytef*>(volume.voxels.data() + first), static_cast<uInt>(num * sizeof(float)));
  }
  const std::vector<std::size_t> shape{volume.num_channels, volume.shape[0], volume.shape[1], volume.shape[2]};
  const rare::Orientation orientation(volume.affine_mm);
  const rare::Route route = rare::Router(manifest.routing, grids_of(manifest)).route(rare::ras_spacing_mm(volume.affine_mm, orientation));
  const rare::Shape routed = rare::resampled_shape(orientation.ras(volume.shape), route.zoom, manifest.resampling);
  return {{"shape", shape}, {"affine", volume.affine_mm}, {"crc32", sum}, {"entry", route.entry}, {"routed_shape", routed}};
}

class NoEngine : public rare::Engine {
 public:
  void run(const std::vector<float>&, std::vector<float>& logits) override { std::fill(logits.begin(), logits.end(), 0.0F); }
};

/// All that a manifest's numbers bound: routing, resampling, normalisation, windows, the way back.
void use_grid(const rare::Manifest& manifest, const std::vector<rare::Grid>& grids, const rare::Grid& grid) {
  const rare::Shape shape{12, 10, 9};
  const rare::Triple spacing{grid.spacing_mm[0] * 0.7, grid.spacing_mm[1] * 1.9, grid.spacing_mm[2]};
  const rare::Affine affine{{{spacing[0], 0, 0, 0}, {0, spacing[1], 0, 0}, {0, 0, spacing[2], 0}}};
  const rare::Route route = rare::affordable_route({manifest.num_channels, shape, affine}, manifest, grids, grid.entry);
  rare::Image image{manifest.num_channels, shape, std::vector<float>(manifest.num_channels * rare::num_voxels(shape), 1.0F)};
  image.values[0] = 2;
  image = rare::resample(std::move(image), route.zoom, manifest.resampling);
  rare::normalise(image, manifest.normalisation);
  const rare::RoutedScan routed{std::move(image), route, rare::Orientation(affine), shape, {shape, {}}};
  NoEngine engine;
  const rare::Shape window = rare::window_shape(routed.image.shape, rare::engine_facts(manifest, grid.entry));
  rare::segment(rare::sliding_logits(routed.image, manifest.label_values.size(), window, manifest.window, engine), manifest, routed);
}

json read_manifest(const std::filesystem::path& path) {
  const rare::Bundle bundle(path.parent_path());
  const auto grids = grids_of(bundle.manifest());
  for (const rare::Grid& grid : grids) {
    try {
      use_grid(bundle.manifest(), grids, grid);
    } catch (const rare::Error& error) {
      if (error.exit_code() != static_cast<int>(rare::Fault::data)) throw;  // the scan may be refused, as one that costs too much
    }
  }
  return json::object();
}

json verdict_of(const std::filesystem::path& path, const rare::Manifest& manifest) {
  try {
    json verdict = path.filename() == "manifest.json" ? read_manifest(path) : read_scan(path, manifest);
    verdict["exit"] = 0;
    return verdict;
  } catch (const rare::Error& error) {
    return {{"exit", error.exit_code()}, {"problem", error.problem()}, {"words", error.what()}};
  } catch (const std::exception& error) {
    return {{"exit", static_cast<int>(rare::Fault::bug)}, {"problem", error.what()}};
  }
}

/// Most memory that this process held since the last call, in bytes.
std::size_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  std::size_t kilobytes = 0;
  for (std::string word; status >> word;) {
    if (word == "VmHWM:") status >> kilobytes;
  }
  std::ofstream("/proc/self/clear_refs") << 5;
  return kilobytes * 1024;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "rare_verdicts BUNDLE < PATHS\n";
    return 2;
  }
  const rare::Bundle bundle(argv[1]);
  peak_bytes();
  for (std::string line; std::getline(std::cin, line);) {
    const std::clock_t started = std::clock();
    json verdict = verdict_of(line, bundle.manifest());
    verdict["cpu_s"] = static_cast<double>(std::clock() - started) / CLOCKS_PER_SEC;
    verdict["peak_bytes"] = peak_bytes();
    std::cout << verdict.dump(-1, ' ', true, json::error_handler_t::replace) << std::endl;
  }
  return 0;
}
