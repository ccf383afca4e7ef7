#pragma once

#include <filesystem>
#include <string>

namespace rare {

/// Returns the SHA-256 of a file in hexadecimal. Throws Error (model) if it cannot be read.
std::string sha256(const std::filesystem::path& path);

}  // namespace rare
