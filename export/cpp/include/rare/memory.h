#pragma once

#include <string>

namespace rare {

/// The machine's memory in bytes, or the limit of the process's control group if that is lower.
double memory_bytes();

/// Throws Error (data) if `needed` bytes are more than that. `what` takes them, e.g. "reading the scan".
void require_memory(double needed, const std::string& what);

}  // namespace rare
