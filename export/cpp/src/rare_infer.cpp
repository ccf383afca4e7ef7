#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rare/bounds.h"
#include "rare/error.h"
#include "rare/labels_file.h"
#include "rare/segmentation.h"
#include "rare/windows.h"

namespace {

using rare::Error;
using rare::Fault;
using Clock = std::chrono::steady_clock;

constexpr const char* usage = R"(rare_infer SCAN -b BUNDLE -o LABELS [--depth K | --entry X,Y,Z] [--backend openvino|tensorrt] [--overwrite]

Segment a NIfTI scan with a bundle of engines. LABELS are on the scan's own grid.

  SCAN                .nii or .nii.gz, 3D, or 4D with channels last
  -b, --bundle        folder written by `rare export`
  -o, --output        file to write, .nii or .nii.gz
  --overwrite         replace the output if it exists
  --depth             force one depth along all axes; by default the scan's spacing decides
  --entry             force an entry: a depth per axis, e.g. 0,0,2
  --backend           openvino (default) or tensorrt

Exit codes: 0 done, 2 usage, 3 the scan, 4 the bundle, 5 this machine.
)";

struct Options {
  std::filesystem::path scan, bundle, output;
  std::string backend = "openvino";
  std::optional<rare::Entry> entry;
  bool overwrite = false;
};

/// `num` whole numbers with commas between them; nothing for any other text.
template <std::size_t num>
std::optional<std::array<int, num>> whole_numbers(const std::string& text) {
  std::array<int, num> numbers{};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (std::size_t index = 0; index < num; ++index) {
    if (index > 0 && (at == end || *at++ != ',')) return {};
    const auto [next, code] = std::from_chars(at, end, numbers[index]);
    if (code != std::errc()) return {};
    at = next;
  }
  if (at != end) return {};
  return numbers;
}

rare::Entry entry_of_depth(const std::string& text) {
  const auto depth = whole_numbers<1>(text);
  if (!depth) throw Error(Fault::usage, "--depth is not a whole number", {{}, text, "0, 1, ..."});
  return {depth->front(), depth->front(), depth->front()};
}

rare::Entry entry_of_depths(const std::string& text) {
  const auto depths = whole_numbers<3>(text);
  if (!depths) throw Error(Fault::usage, "--entry is not three whole numbers", {{}, text, "a depth per axis, e.g. 0,0,2"});
  return *depths;
}

Options parse(const std::vector<std::string>& words) {
  Options options;
  const auto force = [&](const rare::Entry& entry) {
    if (options.entry) throw Error(Fault::usage, "an entry can be forced once, with --depth or --entry");
    options.entry = entry;
  };
  for (std::size_t index = 0; index < words.size(); ++index) {
    const std::string& word = words[index];
    const auto value = [&]() -> const std::string& {
      if (index + 1 == words.size()) throw Error(Fault::usage, "an option has no value", {{}, word, {}});
      return words[++index];
    };
    if (word == "-b" || word == "--bundle") {
      options.bundle = value();
    } else if (word == "-o" || word == "--output") {
      options.output = value();
    } else if (word == "--depth") {
      force(entry_of_depth(value()));
    } else if (word == "--entry") {
      force(entry_of_depths(value()));
    } else if (word == "--backend") {
      options.backend = value();
    } else if (word == "--overwrite") {
      options.overwrite = true;
    } else if (word.size() > 1 && word.front() == '-') {
      throw Error(Fault::usage, "unknown option", {{}, word, "see rare_infer --help"});
    } else if (!options.scan.empty()) {
      throw Error(Fault::usage, "more than one scan", {{}, word, "one"});
    } else {
      options.scan = word;
    }
  }
  if (options.scan.empty() || options.bundle.empty() || options.output.empty()) {
    throw Error(Fault::usage, "a required argument is missing", {{}, {}, "SCAN, -b BUNDLE and -o LABELS; see rare_infer --help"});
  }
  return options;
}

/// The policy of `rare predict`: what exists is replaced only when asked to, and the scan never.
void require_replaceable(const Options& options) {
  const std::string output = options.output.string();
  if (!rare::is_nifti_name(options.output)) {
    throw Error(Fault::usage, "not a NIfTI file name", {output, options.output.extension().string(), "a name ending in .nii or .nii.gz"});
  }
  std::error_code unused;
  if (std::filesystem::equivalent(options.scan, options.output, unused)) {
    throw Error(Fault::usage, "the output would replace the scan", {output, {}, {}, "choose another -o"});
  }
  // a link counts as what exists, wherever it leads
  if (std::filesystem::exists(std::filesystem::symlink_status(options.output, unused)) && !options.overwrite) {
    throw Error(Fault::usage, "the output exists", {output, {}, {}, "--overwrite replaces it; or choose another -o"});
  }
  if (std::filesystem::is_directory(options.output, unused)) {
    throw Error(Fault::usage, "the output is a folder", {output, {}, "a file", "choose another -o"});
  }
}

double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

void infer(const Options& options) {
  const auto started = Clock::now();
  require_replaceable(options);
  const rare::Backend backend(options.backend);
  const rare::Bundle bundle(options.bundle);
  const rare::Manifest& manifest = bundle.manifest();
  const auto grids = backend.grids(manifest);
  rare::affordable_route(rare::read_geometry(options.scan), manifest, grids, options.entry);
  const rare::Volume scan = rare::read_volume(options.scan);
  const rare::RoutedScan routed = rare::prepare(scan, manifest, grids, options.entry);
  const double prepare_ms = ms_since(started);

  const auto opening = Clock::now();
  const rare::Shape window = rare::window_shape(routed.image.shape, rare::engine_facts(manifest, routed.route.entry));
  const auto engine = backend.open(bundle, routed.route.entry, window);
  const double open_ms = ms_since(opening);

  const auto computing = Clock::now();
  rare::Image logits = rare::sliding_logits(routed.image, manifest.label_values.size(), window, manifest.window, *engine);
  const double compute_ms = ms_since(computing);

  rare::write_labels(options.output, rare::segment(std::move(logits), manifest, routed), scan);
  const std::string where = rare::entry_text(routed.route.entry) + ", windows of " + rare::times(window);
  std::printf("%s; prepare %.0f ms, open %.0f ms, compute %.1f ms, all %.0f ms\n", where.c_str(), prepare_ms, open_ms, compute_ms,
              ms_since(started));
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  try {
    for (const std::string& word : words) {
      if (word == "-h" || word == "--help") {
        std::cout << usage;
        return 0;
      }
    }
    infer(parse(words));
    return 0;
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    std::cerr << "error: not enough memory\n";
    return static_cast<int>(Fault::environment);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return static_cast<int>(Fault::bug);
  }
}
