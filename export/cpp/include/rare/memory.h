#pragma once

namespace rare {

/// The smaller of the machine's memory and the limit of the container around this process, in bytes.
double memory_bytes();

}  // namespace rare
