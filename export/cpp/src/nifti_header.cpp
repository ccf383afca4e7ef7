#include "rare/nifti_header.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iomanip>
#include <limits>
#include <sstream>
#include <type_traits>

#include "rare/error.h"
#include "rare/image.h"

namespace rare {
namespace {

constexpr double most_offset = 16777216;
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

template <class Raw>
void require_plausible(const Raw& raw, double capacity) {
  const double num_axes = static_cast<double>(raw.dim[0]);
  if (num_axes < 1 || num_axes > 7) refuse("the header is broken", "dim[0] = " + without_fraction(num_axes), "1 to 7 axes");
  if (std::find(plain_numbers.begin(), plain_numbers.end(), raw.datatype) == plain_numbers.end()) {
    refuse("the voxel type is not a plain number", nifti_datatype_to_string(raw.datatype), "integers or floats (no RGB, no complex)");
  }
  const double least = static_cast<double>(bytes_of<Raw>()) + 4;  // the flag that says whether extensions follow
  const auto given = static_cast<double>(raw.vox_offset);  // NIfTI-1 keeps it as a float
  if (given != 0 && !(given >= least && given <= most_offset)) refuse("the header is broken", "vox_offset = " + std::to_string(given));
  const double offset = given == 0 ? least : std::floor(given);
  int bytes = 0, unused = 0;
  nifti_datatype_sizes(raw.datatype, &bytes, &unused);
  double num_bytes = bytes;  // in floating point, where a product cannot overflow
  for (int axis = 1; axis <= raw.dim[0]; ++axis) {
    if (raw.dim[axis] < 1) refuse("the header is broken", "a size of " + std::to_string(raw.dim[axis]), "positive sizes");
    num_bytes *= static_cast<double>(raw.dim[axis]);
  }
  if (offset + num_bytes > capacity) {
    refuse("the header declares more voxels than the file can hold", without_fraction(offset + num_bytes) + " bytes",
           "at most " + without_fraction(capacity) + " bytes");
  }
  const auto slope = static_cast<double>(raw.scl_slope);
  if (std::isfinite(slope) && slope != 0 && !std::isfinite(static_cast<double>(raw.scl_inter))) {
    refuse("the header is broken", "scl_inter is not finite", "a finite intercept");
  }
}

template <class Raw>
Triple pixdim_of(const Raw& raw) {
  return {static_cast<double>(raw.pixdim[1]), static_cast<double>(raw.pixdim[2]), static_cast<double>(raw.pixdim[3])};
}

template <class Raw>
Affine sform_of(const Raw& raw) {
  Affine affine{};
  for (std::size_t column = 0; column < 4; ++column) {
    affine[0][column] = static_cast<double>(raw.srow_x[column]);
    affine[1][column] = static_cast<double>(raw.srow_y[column]);
    affine[2][column] = static_cast<double>(raw.srow_z[column]);
  }
  return affine;
}

template <class Raw>
Affine qform_of(const Raw& raw) {
  const Triple pixdim = pixdim_of(raw);
  if (*std::min_element(pixdim.begin(), pixdim.end()) < 0) refuse("the qform's spacing is negative", times(pixdim), "positive numbers");
  const auto handedness = static_cast<double>(raw.pixdim[0]);
  if (std::abs(handedness) != 1) refuse("the qform's handedness is unknown", "pixdim[0] = " + times(std::array{handedness}), "1 or -1");
  const auto b = static_cast<double>(raw.quatern_b), c = static_cast<double>(raw.quatern_c), d = static_cast<double>(raw.quatern_d);
  const double rounding = 3 * static_cast<double>(std::numeric_limits<std::decay_t<decltype(raw.quatern_b)>>::epsilon());
  const double length = std::sqrt(b * b + c * c + d * d);
  if (!(length * length <= 1 + rounding)) {
    refuse("the qform's quaternion is not a rotation", "a length of " + times(std::array{length}), "at most 1");
  }
  const nifti_dmat44 matrix =
      nifti_quatern_to_dmat44(b, c, d, static_cast<double>(raw.qoffset_x), static_cast<double>(raw.qoffset_y),
                              static_cast<double>(raw.qoffset_z), pixdim[0], pixdim[1], pixdim[2], handedness);
  Affine affine{};
  for (std::size_t row = 0; row < 3; ++row) std::copy_n(matrix.m[row], 4, affine[row].begin());
  return affine;
}

/// Orientation unknown: the array's own axes, x to the left, the origin in the middle.
template <class Raw>
Affine pixdim_affine_of(const Raw& raw) {
  const Triple pixdim = pixdim_of(raw);
  Affine affine{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const bool exists = static_cast<int>(axis) < raw.dim[0];
    const double step = (exists ? pixdim[axis] : 1.0) * (axis == 0 ? -1 : 1);
    affine[axis][axis] = step;
    affine[axis][3] = exists ? -(static_cast<double>(raw.dim[axis + 1]) - 1) / 2 * step : 0;
  }
  return affine;
}

Triple column_norms(const Affine& affine) {
  Triple norms{};
  for (std::size_t column = 0; column < 3; ++column) {
    norms[column] = std::sqrt(affine[0][column] * affine[0][column] + affine[1][column] * affine[1][column] +
                              affine[2][column] * affine[2][column]);
  }
  return norms;
}

void require_orthogonal(const Affine& affine) {
  nifti_dmat33 linear{};
  bool finite = true;
  for (std::size_t row = 0; row < 3; ++row) {
    for (std::size_t column = 0; column < 4; ++column) finite = finite && std::isfinite(affine[row][column]);
    std::copy_n(affine[row].begin(), 3, linear.m[row]);
  }
  if (!finite || std::abs(nifti_dmat33_determ(linear)) < 1e-12) {
    refuse("the affine is not invertible", {}, "finite, three independent axes");
  }
  const Triple norms = column_norms(affine);
  for (const auto& [one, other] : {std::array<std::size_t, 2>{0, 1}, {0, 2}, {1, 2}}) {
    double cosine = 0;
    for (std::size_t row = 0; row < 3; ++row) cosine += affine[row][one] / norms[one] * (affine[row][other] / norms[other]);
    if (std::abs(cosine) > 1e-2) {
      refuse("the axes are not at right angles", "a cosine of " + std::to_string(std::abs(cosine)) + " between two axes", "no shear");
    }
  }
}

double mm_per_unit(int code) {
  switch (code) {
    case NIFTI_UNITS_METER: return 1e3;
    case NIFTI_UNITS_UNKNOWN:
    case NIFTI_UNITS_MM: return 1;
    case NIFTI_UNITS_MICRON: return 1e-3;
    default: refuse("the unit of length is unknown", "xyzt_units " + std::to_string(code), "0 (unknown), 1 (m), 2 (mm) or 3 (micron)");
  }
}

template <class Raw>
Affine affine_mm_of(const Raw& raw) {
  const Triple pixdim = pixdim_of(raw);
  const bool has_sform = raw.sform_code != 0, has_qform = raw.qform_code != 0;
  const bool known = std::all_of(pixdim.begin(), pixdim.end(), [](double step) { return std::isfinite(step) && step != 0; });
  if (!has_sform && !known) refuse("the spacing is unknown", "pixdim " + times(pixdim), "positive numbers, or a valid sform");
  Affine affine = has_sform ? sform_of(raw) : has_qform ? qform_of(raw) : pixdim_affine_of(raw);
  require_orthogonal(affine);
  const Triple spacing = column_norms(affine);
  for (std::size_t axis = 0; axis < 3; ++axis) {
    // what is not finite says nothing, so it cannot contradict
    if (has_sform && has_qform && std::all_of(pixdim.begin(), pixdim.end(), [](double step) { return std::isfinite(step); }) &&
        std::abs(spacing[axis] - std::abs(pixdim[axis])) > 1e-2 * spacing[axis]) {
      refuse("sform and qform disagree on the spacing", "sform " + times(spacing) + ", qform " + times(pixdim), "one spacing");
    }
  }
  const double scale = mm_per_unit(raw.xyzt_units & 7);
  for (auto& row : affine) {
    for (double& value : row) value *= scale;
  }
  return affine;
}

template <class Field>
void clear(Field& field) {
  std::memset(&field, 0, sizeof(field));
}

}  // namespace

NiftiHeader::NiftiHeader(const std::vector<char>& start, double capacity) {
  if (start.size() < 348) refuse("the file is cut short", std::to_string(start.size()) + " bytes", "a NIfTI header of 348 bytes");
  bool parsed = false;
  if (std::memcmp(start.data() + 4, "n+2", 4) == 0) {
    parsed = parse(start, raw_.emplace<nifti_2_header>(), swapped_, nifti_swap_as_nifti2);
  } else if (std::memcmp(start.data() + 344, "n+1", 4) == 0) {
    parsed = parse(start, raw_.emplace<nifti_1_header>(), swapped_, nifti_swap_as_nifti1);
  } else {
    refuse("not a NIfTI file", "other magic bytes", "n+1 or n+2");
  }
  if (!parsed) refuse("the header is broken", "a wrong sizeof_hdr", "348 or 540");
  std::visit([capacity](const auto& raw) { require_plausible(raw, capacity); }, raw_);
}

std::vector<std::size_t> NiftiHeader::sizes() const {
  return std::visit(
      [](const auto& raw) {
        std::vector<std::size_t> sizes;
        for (int axis = 1; axis <= raw.dim[0]; ++axis) sizes.push_back(static_cast<std::size_t>(raw.dim[axis]));
        return sizes;
      },
      raw_);
}

int NiftiHeader::datatype() const {
  return std::visit([](const auto& raw) { return static_cast<int>(raw.datatype); }, raw_);
}

std::size_t NiftiHeader::bytes_per_voxel() const {
  int bytes = 0, unused = 0;
  nifti_datatype_sizes(datatype(), &bytes, &unused);
  return static_cast<std::size_t>(bytes);
}

std::size_t NiftiHeader::voxel_offset() const {
  return std::visit(
      [](const auto& raw) {
        const auto offset = static_cast<std::size_t>(raw.vox_offset);
        return offset == 0 ? static_cast<std::size_t>(raw.sizeof_hdr) + 4 : offset;
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
  return std::visit([](const auto& raw) { return affine_mm_of(raw); }, raw_);
}

std::vector<char> NiftiHeader::for_labels(const std::array<std::size_t, 3>& shape, int datatype, int bits_per_voxel) const {
  return std::visit(
      [&](auto raw) {
        using Raw = decltype(raw);
        using Size = std::decay_t<decltype(raw.dim[0])>;
        raw.dim[0] = 3;
        for (std::size_t axis = 1; axis < 8; ++axis) raw.dim[axis] = axis < 4 ? static_cast<Size>(shape[axis - 1]) : Size{1};
        raw.datatype = static_cast<short>(datatype);
        raw.bitpix = static_cast<short>(bits_per_voxel);
        raw.scl_slope = 1;
        raw.scl_inter = raw.cal_min = raw.cal_max = 0;
        raw.intent_code = 0;
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
