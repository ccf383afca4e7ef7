#include "rare/memory.h"

#include <algorithm>
#include <fstream>

#include <unistd.h>

namespace rare {

double memory_bytes() {
  double least = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  // of a container: control groups of version 2 and 1
  for (const char* const path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    double limit = 0;
    if (std::ifstream(path) >> limit) least = std::min(least, limit);  // "max", no limit, is no number
  }
  return least;
}

}  // namespace rare
