#include "rare/volume.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "rare/error.h"

namespace rare {
namespace {

constexpr double max_gzip_ratio = 1032;  // the most that deflate can reach
constexpr std::size_t slack = std::size_t{1} << 20U;
constexpr unsigned most_per_call = 1U << 30U;

bool is_gzip_name(const std::filesystem::path& path) { return path.extension() == ".gz"; }

/// A .nii or .nii.gz opened for reading. Unlike zlib's gzread it refuses bytes behind the end of the stream, as Python's gzip does.
class NiftiFile {
 public:
  explicit NiftiFile(const std::filesystem::path& path) : file_(std::fopen(path.c_str(), "rb"), std::fclose), buffer_(slack) {
    if (!file_) throw Error(Fault::data, "no permission to read the file");
    refill();
    is_gzip_ = starts_member();
    if (is_gzip_) {
      stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
      if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) throw Error(Fault::bug, "zlib does not start");
    }
  }
  NiftiFile(const NiftiFile&) = delete;
  NiftiFile& operator=(const NiftiFile&) = delete;
  ~NiftiFile() {
    if (is_gzip_) inflateEnd(&stream_);
  }

  /// Up to `size` more bytes; fewer at the end of the file.
  std::size_t read(char* to, std::size_t size) {
    std::size_t done = 0;
    while (done < size) {
      const std::size_t got = is_gzip_ ? inflate_some(to + done, size - done) : copy_some(to + done, size - done);
      if (got == 0) break;
      done += got;
    }
    return done;
  }

  bool is_gzip() const { return is_gzip_; }

  /// Go to the end of the stream: only there does zlib compare the checksum.
  void drain() {
    std::vector<char> rest(slack);
    if (read(rest.data(), rest.size()) == rest.size()) throw Error(Fault::data, "the file continues after its voxels");
  }

 private:
  /// Read on; false at the end of the file.
  bool refill() {
    begin_ = 0;
    end_ = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
    if (std::ferror(file_.get()) != 0) throw Error(Fault::data, "the file cannot be read", {{}, std::strerror(errno), {}});
    return end_ > 0;
  }

  bool starts_member() const {
    return end_ - begin_ >= 2 && buffer_[begin_] == '\x1f' && static_cast<unsigned char>(buffer_[begin_ + 1]) == 0x8b;
  }

  std::size_t copy_some(char* to, std::size_t size) {
    if (begin_ == end_ && !refill()) return 0;
    const std::size_t num = std::min(size, end_ - begin_);
    std::memcpy(to, buffer_.data() + begin_, num);
    begin_ += num;
    return num;
  }

  std::size_t inflate_some(char* to, std::size_t size) {
    while (!ended_) {
      if (begin_ == end_ && !refill()) broken("the stream ends too early");
      const auto wanted = static_cast<uInt>(std::min<std::size_t>(size, most_per_call));
      stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data() + begin_);
      stream_.avail_in = static_cast<uInt>(end_ - begin_);
      stream_.next_out = reinterpret_cast<Bytef*>(to);
      stream_.avail_out = wanted;
      const int code = inflate(&stream_, Z_NO_FLUSH);
      begin_ = end_ - stream_.avail_in;
      if (code == Z_STREAM_END) {
        next_member();
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        broken(stream_.msg != nullptr ? stream_.msg : "error " + std::to_string(code));
      }
      if (stream_.avail_out < wanted) return wanted - stream_.avail_out;
    }
    return 0;
  }

  /// Behind a member come zeros, then another member or the end of the file.
  void next_member() {
    do {
      while (begin_ < end_ && buffer_[begin_] == 0) ++begin_;
    } while (begin_ == end_ && refill());
    if (begin_ == end_) {
      ended_ = true;
      return;
    }
    if (end_ - begin_ == 1) {  // the second byte of what may be a member
      const char first = buffer_[begin_];
      end_ = 1 + std::fread(buffer_.data() + 1, 1, buffer_.size() - 1, file_.get());
      begin_ = 0;
      buffer_[0] = first;
    }
    const uInt room = stream_.avail_out;
    if (!starts_member()) broken("bytes behind the end of the stream");
    inflateReset(&stream_);
    stream_.avail_out = room;
  }

  [[noreturn]] static void broken(const std::string& words) {
    throw Error(Fault::data, "the compressed file is broken", {{}, words, "a full gzip stream"});
  }

  std::unique_ptr<std::FILE, decltype(&std::fclose)> file_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;
  z_stream stream_{};
  bool is_gzip_ = false, ended_ = false;
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
  throw Error(Fault::data, "the scan has voxels that are not finite",
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
  // a name that nobody can foresee, made new: no link is followed
  std::string temporary = (path.parent_path() / ("." + path.filename().string().substr(0, 40) + ".XXXXXX")).string();
  const int descriptor = mkstemp(temporary.data());
  const int synced = descriptor < 0 ? -1 : dup(descriptor);
  // "T": written as it is, not compressed
  const gzFile file = descriptor < 0 ? nullptr : gzdopen(descriptor, is_gzip_name(path) ? "wb1" : "wbT");
  bool whole = file != nullptr && write_all(file, header) && write_all(file, voxels);
  if (file != nullptr) whole = gzclose(file) == Z_OK && whole;
  if (synced >= 0) {
    const mode_t mask = umask(0);
    umask(mask);
    if (fchmod(synced, 0666 & ~mask) != 0) errno = 0;  // a file system without modes
    if (fsync(synced) != 0 && errno == EIO) whole = false;
    close(synced);
  }
  if (whole) std::filesystem::rename(temporary, path, failure);
  if (!whole || failure) {
    const std::string words = failure ? failure.message() : std::strerror(errno);
    std::filesystem::remove(temporary, failure);
    throw Error(Fault::environment, "the labels cannot be written", {path.string(), words, "a folder with space and permission"});
  }
}

}  // namespace rare
