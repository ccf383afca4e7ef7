#include "rare/nifti_header.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iomanip>
#include <limits>
#include <sstream>
#include <type_traits>

#include "rare/error.h"
#include "rare/memory.h"

namespace rare {
namespace {

constexpr double most_offset = 16777216;
constexpr double max_gzip_ratio = 1032;  // the most that deflate can reach
/// What has more voxels and is packed more tightly is a bomb; scans are packed by 2 to 10, empty labels by up to 1000.
constexpr double bomb_gzip_ratio = 200, bomb_voxels = 536870912;
constexpr double needed_bytes_per_voxel = 8;  ///< the scan in float32, and once more in another order of axes
constexpr std::array<int, 10> plain_numbers{DT_UINT8, DT_INT8,   DT_INT16,  DT_UINT16,  DT_INT32,
                                            DT_UINT32, DT_INT64, DT_UINT64, DT_FLOAT32, DT_FLOAT64};

[[noreturn]] void refuse(const std::string& problem, const std::string& found = {}, const std::string& expected = {}) {
  throw Error(Fault::data, problem, {{}, found, expected});
}

std::string without_fraction(double number) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(0) << number;
  return text.str();
}

template <class Raw>
constexpr std::size_t bytes_of() {
  return std::is_same_v<Raw, nifti_2_header> ? 540 : 348;
}

/// False if neither byte order gives the size that the standard says.
template <class Raw, class Swap>
bool parse(const std::vector<char>& start, Raw& raw, bool& swapped, Swap swap) {
  if (start.size() < bytes_of<Raw>()) refuse("the file is cut short", std::to_string(start.size()) + " bytes", "a NIfTI header");
  std::memcpy(&raw, start.data(), bytes_of<Raw>());
  if (raw.sizeof_hdr == static_cast<int>(bytes_of<Raw>())) return true;
  swap(&raw);
  swapped = true;
  return raw.sizeof_hdr == static_cast<int>(bytes_of<Raw>());
}

/// Sizes of all axes as nibabel understands them. Throws Error for what cannot be.
template <class Raw>
std::vector<std::size_t> sizes_of(const Raw& raw) {
  if (raw.dim[0] < 1 || raw.dim[0] > 7) refuse("the header is broken", "dim[0] = " + std::to_string(raw.dim[0]), "1 to 7 axes");
  std::vector<std::size_t> sizes;
  for (int axis = 1; axis <= raw.dim[0]; ++axis) {
    if (raw.dim[axis] < 1) refuse("the header is broken", "a size of " + std::to_string(raw.dim[axis]), "positive sizes");
    sizes.push_back(static_cast<std::size_t>(raw.dim[axis]));
  }
  const std::vector<std::size_t> of_a_surface{27307, 1, 6};  // how FreeSurfer stores 163842 values, too many for the sizes of NIfTI-1
  if (std::is_same_v<Raw, nifti_1_header> && sizes.size() >= 3 && std::equal(of_a_surface.begin(), of_a_surface.end(), sizes.begin())) {
    sizes[0] = 163842;
    sizes[2] = 1;
  }
  return sizes;
}

template <class Raw>
double bytes_per_voxel_of(const Raw& raw) {
  int bytes = 0, unused = 0;
  nifti_datatype_sizes(raw.datatype, &bytes, &unused);
  return bytes;
}

/// In floating point, where a product cannot overflow.
void require_size(double num_voxels, double num_bytes, double file_bytes, bool packed) {
  const double capacity = packed ? file_bytes * max_gzip_ratio : file_bytes;
  if (num_bytes > capacity) {
    refuse("the header declares more voxels than the file can hold", without_fraction(num_bytes) + " bytes",
           "at most " + without_fraction(capacity) + " bytes");
  }
  if (packed && num_voxels > bomb_voxels && num_bytes > file_bytes * bomb_gzip_ratio) {
    refuse("the file would unpack to far more data than a scan holds",
           without_fraction(file_bytes) + " bytes that become " + without_fraction(num_bytes),
           "at most " + without_fraction(bomb_gzip_ratio) + " times as many, or " + without_fraction(bomb_voxels) + " voxels");
  }
  require_memory(num_voxels * needed_bytes_per_voxel, "reading the scan");
}

template <class Raw>
void require_plausible(const Raw& raw, const std::vector<std::size_t>& sizes, double file_bytes, bool packed) {
  if (std::find(plain_numbers.begin(), plain_numbers.end(), raw.datatype) == plain_numbers.end()) {
    refuse("the voxel type is not a plain number", nifti_datatype_to_string(raw.datatype), "integers or floats (no RGB, no complex)");
  }
  const double least = static_cast<double>(bytes_of<Raw>()) + 4;  // the flag that says whether extensions follow
  const auto given = static_cast<double>(raw.vox_offset);  // NIfTI-1 keeps it as a float
  if (given != 0 && !(given >= least && given <= most_offset)) refuse("the header is broken", "vox_offset = " + std::to_string(given));
  double voxels = 1;
  for (const std::size_t size : sizes) voxels *= static_cast<double>(size);
  require_size(voxels, (given == 0 ? least : std::floor(given)) + voxels * bytes_per_voxel_of(raw), file_bytes, packed);
  const auto slope = static_cast<double>(raw.scl_slope);
  if (std::isfinite(slope) && slope != 0 && !std::isfinite(static_cast<double>(raw.scl_inter))) {
    refuse("the header is broken", "scl_inter is not finite", "a finite intercept");
  }
}

/// [X, Y, Z] or [X, Y, Z, C]; (X, Y, Z, 1, C) is the NIfTI layout of vectors.
std::vector<std::size_t> channels_last(std::vector<std::size_t> sizes) {
  while (sizes.size() > 3 && sizes.back() == 1) sizes.pop_back();
  sizes.resize(std::max<std::size_t>(sizes.size(), 3), 1);
  if (sizes.size() == 5 && sizes[3] == 1) sizes.erase(sizes.begin() + 3);
  if (sizes.size() > 4) refuse("too many axes", times(sizes), "(X, Y, Z) or (X, Y, Z, channels)");
  return sizes;
}

template <class Field>
void clear(Field& field) {
  std::memset(&field, 0, sizeof(field));
}

}  // namespace

NiftiHeader::NiftiHeader(NiftiStream& stream, double file_bytes) {
  std::vector<char> start(bytes_of<nifti_2_header>());
  std::size_t there = stream.read(start.data(), bytes_of<nifti_1_header>());
  const bool version_2 = there >= 8 && std::memcmp(start.data() + 4, "n+2", 4) == 0;
  if (version_2) there += stream.read(start.data() + there, start.size() - there);
  start.resize(there);
  bool parsed = false;
  if (version_2) {
    parsed = parse(start, raw_.emplace<nifti_2_header>(), swapped_, nifti_swap_as_nifti2);
  } else {
    if (there < bytes_of<nifti_1_header>()) {
      refuse("the file is cut short", std::to_string(there) + " bytes", "a NIfTI header of 348 bytes");
    }
    if (std::memcmp(start.data() + 344, "n+1", 4) != 0) refuse("not a NIfTI file", "other magic bytes", "n+1 or n+2");
    parsed = parse(start, raw_.emplace<nifti_1_header>(), swapped_, nifti_swap_as_nifti1);
  }
  if (!parsed) refuse("the header is broken", "a wrong sizeof_hdr", "348 or 540");
  std::visit(
      [&](const auto& raw) {
        sizes_ = sizes_of(raw);
        require_plausible(raw, sizes_, file_bytes, stream.is_gzip());
      },
      raw_);
  const std::vector<std::size_t> sizes = channels_last(sizes_);
  std::copy_n(sizes.begin(), 3, shape_.begin());
  num_channels_ = sizes.size() == 4 ? sizes[3] : 1;
}

int NiftiHeader::datatype() const {
  return std::visit([](const auto& raw) { return static_cast<int>(raw.datatype); }, raw_);
}

std::size_t NiftiHeader::bytes_per_voxel() const {
  return std::visit([](const auto& raw) { return static_cast<std::size_t>(bytes_per_voxel_of(raw)); }, raw_);
}

std::size_t NiftiHeader::bytes_before_voxels() const {
  return std::visit(
      [](const auto& raw) {
        const auto offset = static_cast<std::size_t>(raw.vox_offset);
        return offset == 0 ? std::size_t{4} : offset - static_cast<std::size_t>(raw.sizeof_hdr);
      },
      raw_);
}

std::array<double, 2> NiftiHeader::scaling() const {
  return std::visit(
      [](const auto& raw) {
        const auto slope = static_cast<double>(raw.scl_slope), inter = static_cast<double>(raw.scl_inter);
        return std::isfinite(slope) && slope != 0 ? std::array<double, 2>{slope, inter} : std::array<double, 2>{1, 0};
      },
      raw_);
}

Affine NiftiHeader::affine_mm() const {
  return std::visit([this](const auto& raw) { return affine_mm_of(raw, shape_); }, raw_);
}

std::vector<char> NiftiHeader::for_labels(int datatype, int bits_per_voxel) const {
  return std::visit(
      [&](auto raw) {
        using Raw = decltype(raw);
        using Size = std::decay_t<decltype(raw.dim[0])>;
        raw.dim[0] = 3;
        // as they stand: how FreeSurfer stores a surface is kept
        for (std::size_t axis = 1; axis < 8; ++axis) raw.dim[axis] = axis <= std::min<std::size_t>(sizes_.size(), 3) ? raw.dim[axis] : Size{1};
        raw.datatype = static_cast<short>(datatype);
        raw.bitpix = static_cast<short>(bits_per_voxel);
        raw.scl_slope = 1;
        raw.scl_inter = raw.cal_min = raw.cal_max = 0;
        raw.intent_code = NIFTI_INTENT_LABEL;
        raw.intent_p1 = raw.intent_p2 = raw.intent_p3 = 0;
        raw.vox_offset = bytes_of<Raw>() + 4;
        clear(raw.intent_name);
        clear(raw.descrip);
        clear(raw.aux_file);
        if constexpr (std::is_same_v<Raw, nifti_1_header>) {
          clear(raw.data_type);
          clear(raw.db_name);
        }
        std::vector<char> bytes(bytes_of<Raw>() + 4);
        std::memcpy(bytes.data(), &raw, bytes_of<Raw>());
        return bytes;
      },
      raw_);
}

}  // namespace rare
