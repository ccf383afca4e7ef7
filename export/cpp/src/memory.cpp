#include "rare/memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <sstream>

#include <unistd.h>

#include "rare/error.h"

namespace rare {
namespace {

const std::filesystem::path groups = "/sys/fs/cgroup";

/// The least limit in a group's folder and all around it.
double least_limit(const std::filesystem::path& root, const std::string& name, const char* file, double least) {
  for (std::filesystem::path folder = root / std::filesystem::path(name).relative_path();; folder = folder.parent_path()) {
    double limit = 0;
    if (std::ifstream(folder / file) >> limit) least = std::min(least, limit);  // "max", no limit, is no number
    if (folder == root || !folder.has_relative_path()) return least;
  }
}

std::string gigabytes(double num_bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << num_bytes / (1 << 30) << " GB";
  return text.str();
}

}  // namespace

double memory_bytes() {
  double least = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  std::ifstream own("/proc/self/cgroup");
  for (std::string line; std::getline(own, line);) {  // number:controllers:name, without controllers in version 2
    const std::size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), name = line.substr(second + 1);
    if (controllers.empty()) {
      least = least_limit(groups, name, "memory.max", least);
    } else if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      least = least_limit(groups / "memory", name, "memory.limit_in_bytes", least);
    }
  }
  return least;
}

void require_memory(double needed, const std::string& what) {
  if (const double limit = memory_bytes(); needed > limit) {
    throw Error(Fault::data, what + " takes more memory than this machine has",
                {{},
                 "at least " + gigabytes(needed) + " needed",
                 "at most " + gigabytes(limit),
                 "crop the scan, check the sizes and the spacing in its header, or take a larger machine"});
  }
}

}  // namespace rare
