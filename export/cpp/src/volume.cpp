#include "rare/volume.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include <unistd.h>
#include <zlib.h>

#include "rare/error.h"

namespace rare {
namespace {

constexpr double max_gzip_ratio = 1032;  // the most that deflate can reach
constexpr std::size_t slack = std::size_t{1} << 20U;
constexpr unsigned most_per_call = 1U << 30U;

bool is_gzip_name(const std::filesystem::path& path) { return path.extension() == ".gz"; }

/// A .nii or .nii.gz opened for reading; zlib reads both.
class NiftiFile {
 public:
  explicit NiftiFile(const std::filesystem::path& path) : file_(gzopen(path.c_str(), "rb"), gzclose) {
    if (!file_) throw Error(Fault::data, "the file may not be read");
    gzbuffer(file_.get(), slack);
  }

  /// Up to `size` more bytes; fewer at the end of the file.
  std::size_t read(char* to, std::size_t size) {
    std::size_t done = 0;
    while (done < size) {
      const auto wanted = static_cast<unsigned>(std::min<std::size_t>(size - done, most_per_call));
      const int got = gzread(file_.get(), to + done, wanted);
      require_whole(got < 0);
      if (got <= 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

  bool is_gzip() { return gzdirect(file_.get()) == 0; }

  /// Go to the end of the stream: only there does zlib compare the checksum.
  void drain() {
    std::vector<char> rest(slack);
    if (read(rest.data(), rest.size()) == rest.size()) throw Error(Fault::data, "the file goes on after its voxels");
  }

 private:
  void require_whole(bool failed) {
    int code = Z_OK;
    const std::string words = gzerror(file_.get(), &code);
    if (failed || (code != Z_OK && code != Z_STREAM_END)) {
      throw Error(Fault::data, "the compressed file is broken", {{}, words, "a whole gzip stream"});
    }
  }

  std::unique_ptr<gzFile_s, decltype(&gzclose)> file_;
};

template <class Stored>
void convert(const char* stored, std::vector<float>& voxels, const std::array<double, 2>& scaling) {
  const auto [slope, inter] = scaling;
  const bool scaled = slope != 1 || inter != 0;
  for (float& voxel : voxels) {
    Stored value;
    std::memcpy(&value, stored, sizeof(Stored));
    stored += sizeof(Stored);
    voxel = scaled ? static_cast<float>(static_cast<double>(value) * slope + inter) : static_cast<float>(value);
  }
}

void convert(const char* stored, std::vector<float>& voxels, const NiftiHeader& header) {
  const std::array<double, 2> scaling = header.scaling();
  switch (header.datatype()) {
    case DT_UINT8: return convert<std::uint8_t>(stored, voxels, scaling);
    case DT_INT8: return convert<std::int8_t>(stored, voxels, scaling);
    case DT_INT16: return convert<std::int16_t>(stored, voxels, scaling);
    case DT_UINT16: return convert<std::uint16_t>(stored, voxels, scaling);
    case DT_INT32: return convert<std::int32_t>(stored, voxels, scaling);
    case DT_UINT32: return convert<std::uint32_t>(stored, voxels, scaling);
    case DT_INT64: return convert<std::int64_t>(stored, voxels, scaling);
    case DT_UINT64: return convert<std::uint64_t>(stored, voxels, scaling);
    case DT_FLOAT32: return convert<float>(stored, voxels, scaling);
    case DT_FLOAT64: return convert<double>(stored, voxels, scaling);
    default: throw Error(Fault::bug, "a voxel type was found plausible but is not converted");
  }
}

/// (X, Y, Z) and the number of channels; (X, Y, Z, 1, C) is NIfTI's layout of vectors.
void set_axes(Volume& volume) {
  std::vector<std::size_t> sizes = volume.header.sizes();
  while (sizes.size() > 3 && sizes.back() == 1) sizes.pop_back();
  sizes.resize(std::max<std::size_t>(sizes.size(), 3), 1);
  if (sizes.size() == 5 && sizes[3] == 1) sizes.erase(sizes.begin() + 3);
  if (sizes.size() > 4) throw Error(Fault::data, "too many axes", {{}, times(sizes), "(X, Y, Z) or (X, Y, Z, channels)"});
  std::copy_n(sizes.begin(), 3, volume.shape.begin());
  volume.num_channels = sizes.size() == 4 ? sizes[3] : 1;
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
  throw Error(Fault::data, "the scan has voxels that are no finite numbers",
              {{}, std::to_string(num_stray) + " NaN or infinite voxels, one at (channel, x, y, z) = " + where + ")",
               "finite intensities"});
}

Volume read_checked(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) throw Error(Fault::data, "the file is missing");
  if (std::filesystem::is_directory(path)) throw Error(Fault::data, "this is a folder, not a NIfTI file");
  if (!is_nifti_name(path)) {
    throw Error(Fault::data, "not a NIfTI file name", {{}, path.filename().string(), "a name ending in .nii or .nii.gz"});
  }
  NiftiFile file(path);
  std::vector<char> content(NiftiHeader::most_bytes);
  content.resize(file.read(content.data(), content.size()));
  if (file.is_gzip() != is_gzip_name(path)) {
    throw Error(Fault::data, "the file is not what its name says",
                {{}, file.is_gzip() ? "gzip" : "no gzip", is_gzip_name(path) ? "gzip" : "no gzip"});
  }
  const double capacity = static_cast<double>(std::filesystem::file_size(path)) * (file.is_gzip() ? max_gzip_ratio : 1);
  const NiftiHeader header(content, capacity);
  Volume volume{header, header.affine_mm(), 0, {}, {}};
  set_axes(volume);
  volume.voxels.resize(volume.num_channels * num_voxels(volume.shape));
  const std::size_t end = header.voxel_offset() + volume.voxels.size() * header.bytes_per_voxel();
  const std::size_t there = content.size();
  content.resize(std::max(end, there));
  const std::size_t found = end > there ? there + file.read(content.data() + there, end - there) : there;
  if (found < end) {
    throw Error(Fault::data, "the file is cut short", {{}, std::to_string(found) + " bytes", std::to_string(end) + " bytes"});
  }
  if (file.is_gzip()) file.drain();
  char* const stored = content.data() + header.voxel_offset();
  if (header.swapped()) {
    nifti_swap_Nbytes(static_cast<std::int64_t>(volume.voxels.size()), static_cast<int>(header.bytes_per_voxel()), stored);
  }
  convert(stored, volume.voxels, header);
  require_finite(volume);
  return volume;
}

template <class Stored>
std::vector<char> stored_as(const std::vector<std::int32_t>& labels) {
  std::vector<char> bytes(labels.size() * sizeof(Stored));
  char* to = bytes.data();
  for (const std::int32_t label : labels) {
    const auto value = static_cast<Stored>(label);
    std::memcpy(to, &value, sizeof(Stored));
    to += sizeof(Stored);
  }
  return bytes;
}

bool write_all(gzFile file, const std::vector<char>& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const auto wanted = static_cast<unsigned>(std::min<std::size_t>(bytes.size() - done, most_per_call));
    const int written = gzwrite(file, bytes.data() + done, wanted);
    if (written <= 0) return false;
    done += static_cast<std::size_t>(written);
  }
  return true;
}

}  // namespace

bool is_nifti_name(const std::filesystem::path& path) {
  return path.extension() == ".nii" || (is_gzip_name(path) && path.stem().extension() == ".nii");
}

Volume read_volume(const std::filesystem::path& path) {
  try {
    return read_checked(path);
  } catch (const Error& error) {
    throw error.at(path.string());
  }
}

void write_labels(const std::filesystem::path& path, const std::vector<std::int32_t>& labels, const Volume& like) {
  const std::int32_t largest = labels.empty() ? 0 : *std::max_element(labels.begin(), labels.end());
  std::vector<char> header, voxels;
  if (largest < 1 << 8) {
    header = like.header.for_labels(like.shape, DT_UINT8, 8);
    voxels = stored_as<std::uint8_t>(labels);
  } else if (largest < 1 << 16) {
    header = like.header.for_labels(like.shape, DT_UINT16, 16);
    voxels = stored_as<std::uint16_t>(labels);
  } else {
    header = like.header.for_labels(like.shape, DT_INT32, 32);
    voxels = stored_as<std::int32_t>(labels);
  }
  std::error_code failure;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), failure);
  std::filesystem::path temporary = path;
  temporary.replace_filename("." + path.filename().string() + "." + std::to_string(getpid()));
  // "T": written as it is, not compressed
  const gzFile file = gzopen(temporary.c_str(), is_gzip_name(path) ? "wb1" : "wbT");
  bool whole = file != nullptr && write_all(file, header) && write_all(file, voxels);
  if (file != nullptr) whole = gzclose(file) == Z_OK && whole;
  if (whole) std::filesystem::rename(temporary, path, failure);
  if (!whole || failure) {
    const std::string words = failure ? failure.message() : std::strerror(errno);
    std::filesystem::remove(temporary, failure);
    throw Error(Fault::environment, "the labels cannot be written", {path.string(), words, "a folder with space and permission"});
  }
}

}  // namespace rare
