#pragma once

#include <array>
#include <string>

namespace rare {

/// Where a scan enters the network: the routing depth of each axis.
using Entry = std::array<int, 3>;

inline bool is_isotropic(const Entry& entry) { return entry[0] == entry[1] && entry[1] == entry[2]; }

/// "depth 1", or "entry 0,0,2", for messages.
inline std::string entry_text(const Entry& entry) {
  if (is_isotropic(entry)) return "depth " + std::to_string(entry[0]);
  return "entry " + std::to_string(entry[0]) + "," + std::to_string(entry[1]) + "," + std::to_string(entry[2]);
}

}  // namespace rare
