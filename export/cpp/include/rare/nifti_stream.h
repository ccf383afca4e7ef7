#pragma once

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <zlib.h>

namespace rare {

/// Whether the name ends in .nii or .nii.gz.
bool is_nifti_name(const std::filesystem::path& path);
bool is_gzip_name(const std::filesystem::path& path);

/// The content of a .nii or .nii.gz, read in pieces. Unlike zlib's gzread it refuses bytes behind the end of the gzip stream.
class NiftiStream {
 public:
  /// Throws Error (data) for what is no regular file, has another name, or is not what its name says.
  explicit NiftiStream(const std::filesystem::path& path);
  ~NiftiStream();
  NiftiStream(const NiftiStream&) = delete;
  NiftiStream& operator=(const NiftiStream&) = delete;

  /// Up to `size` more bytes; fewer at the end. Throws Error (data) for a broken gzip stream.
  std::size_t read(char* to, std::size_t size);

  bool is_gzip() const { return is_gzip_; }

 private:
  bool refill();
  bool starts_member() const;
  std::size_t copy_some(char* to, std::size_t size);
  std::size_t inflate_some(char* to, std::size_t size);
  void next_member();

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;
  z_stream stream_{};
  bool is_gzip_ = false, ended_ = false;
};

}  // namespace rare
