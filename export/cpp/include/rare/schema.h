#pragma once

#include <nlohmann/json_fwd.hpp>

namespace rare {

/// Compares a manifest with export/manifest.schema.json, which is compiled in, and puts the defaults in place of keys that are missing.
/// Throws Error (model) that names the key of the first mistake.
void follow_schema(nlohmann::json& manifest);

}  // namespace rare
