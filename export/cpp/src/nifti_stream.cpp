#include "rare/nifti_stream.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "rare/error.h"

namespace rare {
namespace {

constexpr std::size_t packed_bytes = std::size_t{1} << 16U;
constexpr std::size_t most_per_call = std::size_t{1} << 20U;

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::FILE* open_regular(const std::filesystem::path& path) {
  if (!is_nifti_name(path)) {
    throw Error(Fault::data, "not a NIfTI file name", {{}, path.filename().string(), "a name ending in .nii or .nii.gz"});
  }
  std::error_code unknown;
  const auto status = std::filesystem::status(path, unknown);
  if (status.type() == std::filesystem::file_type::not_found) throw Error(Fault::data, "the file is missing", {{}, {}, "a scan"});
  if (std::filesystem::is_directory(status)) throw Error(Fault::data, "this is a folder", {{}, {}, "a NIfTI file"});
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw Error(Fault::data, "not a regular file", {{}, "a pipe or a device", ".nii or .nii.gz"});
  }
  std::FILE* const file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw Error(Fault::data, "no permission to read the file", {{}, std::strerror(errno), {}});
  return file;
}

[[noreturn]] void broken(const std::string& words) {
  throw Error(Fault::data, "the compressed file is broken", {{}, words, "a full gzip stream"});
}

}  // namespace

bool is_gzip_name(const std::filesystem::path& path) { return ends_with(path.filename().string(), ".gz"); }

bool is_nifti_name(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  return ends_with(name, ".nii") || ends_with(name, ".nii.gz");
}

NiftiStream::NiftiStream(const std::filesystem::path& path) : file_(open_regular(path), std::fclose), buffer_(packed_bytes) {
  refill();
  const bool packed = starts_member();
  if (end_ > 0 && packed != is_gzip_name(path)) {
    throw Error(Fault::data, "the file is not what its name says", {{}, packed ? "gzip" : "no gzip", packed ? "no gzip" : "gzip"});
  }
  if (!packed) return;
  if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) throw Error(Fault::bug, "zlib does not start");
  is_gzip_ = true;
}

NiftiStream::~NiftiStream() {
  if (is_gzip_) inflateEnd(&stream_);
}

std::size_t NiftiStream::read(char* to, std::size_t size) {
  std::size_t done = 0;
  while (done < size) {
    const std::size_t got = is_gzip_ ? inflate_some(to + done, size - done) : copy_some(to + done, size - done);
    if (got == 0) break;
    done += got;
  }
  return done;
}

/// Read on; false at the end of the file.
bool NiftiStream::refill() {
  begin_ = 0;
  end_ = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
  if (std::ferror(file_.get()) != 0) throw Error(Fault::data, "no permission to read the file", {{}, std::strerror(errno), {}});
  return end_ > 0;
}

bool NiftiStream::starts_member() const {
  return end_ - begin_ >= 2 && buffer_[begin_] == '\x1f' && static_cast<unsigned char>(buffer_[begin_ + 1]) == 0x8b;
}

std::size_t NiftiStream::copy_some(char* to, std::size_t size) {
  if (begin_ == end_ && !refill()) return 0;
  const std::size_t num = std::min(size, end_ - begin_);
  std::memcpy(to, buffer_.data() + begin_, num);
  begin_ += num;
  return num;
}

std::size_t NiftiStream::inflate_some(char* to, std::size_t size) {
  const auto wanted = static_cast<uInt>(std::min(size, most_per_call));
  while (!ended_) {
    if (begin_ == end_ && !refill()) broken("the stream ends too early");
    stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data() + begin_);
    stream_.avail_in = static_cast<uInt>(end_ - begin_);
    stream_.next_out = reinterpret_cast<Bytef*>(to);
    stream_.avail_out = wanted;
    const int code = inflate(&stream_, Z_NO_FLUSH);
    const std::size_t got = wanted - stream_.avail_out;
    begin_ = end_ - stream_.avail_in;
    if (code == Z_STREAM_END) {
      next_member();
    } else if (code != Z_OK && code != Z_BUF_ERROR) {
      broken(stream_.msg != nullptr ? stream_.msg : "error " + std::to_string(code));
    }
    if (got > 0) return got;
  }
  return 0;
}

/// Behind a member come zeros, then another member or the end of the file.
void NiftiStream::next_member() {
  do {
    while (begin_ < end_ && buffer_[begin_] == 0) ++begin_;
  } while (begin_ == end_ && refill());
  if (begin_ == end_) {
    ended_ = true;
    return;
  }
  if (end_ - begin_ == 1) {  // the second byte of what may be a member
    buffer_[0] = buffer_[begin_];
    begin_ = 0;
    end_ = 1 + std::fread(buffer_.data() + 1, 1, buffer_.size() - 1, file_.get());
  }
  if (!starts_member()) broken("bytes behind the end of the stream");
  inflateReset(&stream_);
}

}  // namespace rare
