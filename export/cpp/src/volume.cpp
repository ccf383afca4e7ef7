#include "rare/volume.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "rare/error.h"

namespace rare {
namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 20U;
constexpr std::size_t most_bytes_after = std::size_t{1} << 20U;

/// Scaled voxels from a piece of the file.
template <class Stored>
void convert(const char* stored, std::size_t num, float* to, const std::array<double, 2>& scaling) {
  const auto [slope, inter] = scaling;
  const bool scaled = slope != 1 || inter != 0;
  for (std::size_t index = 0; index < num; ++index) {
    Stored value;
    std::memcpy(&value, stored + index * sizeof(Stored), sizeof(Stored));
    to[index] = scaled ? static_cast<float>(static_cast<double>(value) * slope + inter) : static_cast<float>(value);
  }
}

void convert(const char* stored, std::size_t num, float* to, const NiftiHeader& header) {
  const std::array<double, 2> scaling = header.scaling();
  switch (header.datatype()) {
    case DT_UINT8: return convert<std::uint8_t>(stored, num, to, scaling);
    case DT_INT8: return convert<std::int8_t>(stored, num, to, scaling);
    case DT_INT16: return convert<std::int16_t>(stored, num, to, scaling);
    case DT_UINT16: return convert<std::uint16_t>(stored, num, to, scaling);
    case DT_INT32: return convert<std::int32_t>(stored, num, to, scaling);
    case DT_UINT32: return convert<std::uint32_t>(stored, num, to, scaling);
    case DT_INT64: return convert<std::int64_t>(stored, num, to, scaling);
    case DT_UINT64: return convert<std::uint64_t>(stored, num, to, scaling);
    case DT_FLOAT32: return convert<float>(stored, num, to, scaling);
    case DT_FLOAT64: return convert<double>(stored, num, to, scaling);
    default: throw Error(Fault::bug, "a voxel type was found plausible but is not converted");
  }
}

void require_finite(const Volume& volume) {
  const auto finite = [](float voxel) { return std::isfinite(voxel); };
  const auto first = std::find_if_not(volume.voxels.begin(), volume.voxels.end(), finite);
  if (first == volume.voxels.end()) return;
  const auto num_stray = std::count_if(first, volume.voxels.end(), [&](float voxel) { return !finite(voxel); });
  const auto index = static_cast<std::size_t>(first - volume.voxels.begin());
  const auto [x, y, z] = volume.shape;
  const std::array<std::size_t, 4> place{index / (x * y * z), index % x, index / x % y, index / (x * y) % z};
  std::string where = "(";
  for (const std::size_t number : place) where += (where.size() > 1 ? ", " : "") + std::to_string(number);
  throw Error(Fault::data, "the scan has voxels that are not finite",
              {{}, std::to_string(num_stray) + " NaN or infinite voxels, one at (channel, x, y, z) = " + where + ")",
               "finite intensities"});
}

/// Reads `num` bytes whose content does not matter, or what there is of them.
std::size_t skip(NiftiStream& stream, std::size_t num) {
  std::vector<char> unused(num);
  return stream.read(unused.data(), num);
}

/// All voxels in the order of the file; the bytes stored are held a piece at a time.
std::vector<float> read_voxels(NiftiStream& stream, const NiftiHeader& header) {
  const std::size_t size = header.bytes_per_voxel(), total = header.num_channels() * num_voxels(header.shape());
  std::size_t found = skip(stream, header.bytes_before_voxels());
  std::vector<char> piece(piece_bytes);
  std::vector<float> voxels;
  voxels.reserve(total);  // which touches no memory
  while (voxels.size() < total) {
    const std::size_t first = voxels.size(), num = std::min(piece_bytes / size, total - first);
    const std::size_t got = stream.read(piece.data(), num * size);
    found += got;
    if (got < num * size) {
      throw Error(Fault::data, "the file is cut short",
                  {{}, std::to_string(found) + " bytes behind the header",
                   std::to_string(header.bytes_before_voxels() + total * size) + " bytes"});
    }
    if (header.swapped()) nifti_swap_Nbytes(static_cast<std::int64_t>(num), static_cast<int>(size), piece.data());
    voxels.resize(first + num);
    convert(piece.data(), num, voxels.data() + first, header);
  }
  return voxels;
}

NiftiHeader read_header(NiftiStream& stream, const std::filesystem::path& path) {
  return {stream, static_cast<double>(std::filesystem::file_size(path))};
}

Volume read_checked(const std::filesystem::path& path) {
  NiftiStream stream(path);
  const NiftiHeader header = read_header(stream, path);
  Volume volume{header, header.affine_mm(), header.num_channels(), header.shape(), {}};
  volume.voxels = read_voxels(stream, header);
  // only at the end of the stream does zlib compare the checksum
  if (stream.is_gzip() && skip(stream, most_bytes_after + 1) > most_bytes_after) {
    throw Error(Fault::data, "the file continues after its voxels", {{}, {}, "the end of the file"});
  }
  require_finite(volume);
  return volume;
}

}  // namespace

Geometry read_geometry(const std::filesystem::path& path) {
  try {
    NiftiStream stream(path);
    const NiftiHeader header = read_header(stream, path);
    return {header.num_channels(), header.shape(), header.affine_mm()};
  } catch (const Error& error) {
    throw error.at(path.string());
  }
}

Volume read_volume(const std::filesystem::path& path) {
  try {
    return read_checked(path);
  } catch (const Error& error) {
    throw error.at(path.string());
  }
}

}  // namespace rare
