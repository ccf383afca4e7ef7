#include "rare/sha256.h"

#include <array>
#include <fstream>
#include <memory>
#include <vector>

#include <openssl/evp.h>

#include "rare/error.h"

namespace rare {

std::string sha256(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) {
    throw Error(Fault::environment, "OpenSSL has no SHA-256");
  }
  std::vector<char> chunk(1U << 20U);
  while (file) {
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    EVP_DigestUpdate(context.get(), chunk.data(), static_cast<std::size_t>(file.gcount()));
  }
  if (!file.eof()) throw Error(Fault::model, "a file of the bundle cannot be read", {path.string()});
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(context.get(), digest.data(), &size);
  std::string text;
  for (unsigned int index = 0; index < size; ++index) {
    constexpr const char* digits = "0123456789abcdef";
    text += digits[digest[index] / 16U];
    text += digits[digest[index] % 16U];
  }
  return text;
}

}  // namespace rare
