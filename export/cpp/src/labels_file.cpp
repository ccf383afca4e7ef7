#include "rare/labels_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "rare/error.h"

namespace rare {
namespace {

constexpr std::size_t most_per_call = std::size_t{1} << 30U;

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
    const auto wanted = static_cast<unsigned>(std::min(bytes.size() - done, most_per_call));
    const int written = gzwrite(file, bytes.data() + done, wanted);
    if (written <= 0) return false;
    done += static_cast<std::size_t>(written);
  }
  return true;
}

}  // namespace

void write_labels(const std::filesystem::path& path, const std::vector<std::int32_t>& labels, const Volume& like) {
  const std::int32_t largest = labels.empty() ? 0 : *std::max_element(labels.begin(), labels.end());
  std::vector<char> header, voxels;
  if (largest < 1 << 8) {
    header = like.header.for_labels(DT_UINT8, 8);
    voxels = stored_as<std::uint8_t>(labels);
  } else if (largest < 1 << 16) {
    header = like.header.for_labels(DT_UINT16, 16);
    voxels = stored_as<std::uint16_t>(labels);
  } else {
    header = like.header.for_labels(DT_INT32, 32);
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
