#include "rare/nifti_affine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "rare/error.h"
#include "rare/image.h"

namespace rare {
namespace {

[[noreturn]] void refuse(const std::string& problem, const std::string& found = {}, const std::string& expected = {}) {
  throw Error(Fault::data, problem, {{}, found, expected});
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

/// The rotation of a unit quaternion whose first number is left out, times pixdim.
template <class Raw>
Affine qform_of(const Raw& raw) {
  const Triple pixdim = pixdim_of(raw);
  if (*std::min_element(pixdim.begin(), pixdim.end()) < 0) refuse("the qform's spacing is negative", times(pixdim), "positive numbers");
  const auto handedness = static_cast<double>(raw.pixdim[0]);
  if (std::abs(handedness) != 1) refuse("the qform's handedness is unknown", "pixdim[0] = " + times(std::array{handedness}), "1 or -1");
  const auto b = static_cast<double>(raw.quatern_b), c = static_cast<double>(raw.quatern_c), d = static_cast<double>(raw.quatern_d);
  const double rest = 1 - (b * b + c * c + d * d);
  const double rounding = 3 * static_cast<double>(std::numeric_limits<std::decay_t<decltype(raw.quatern_b)>>::epsilon());
  if (!(rest > -rounding)) refuse("the qform's quaternion is not a rotation", times(Triple{b, c, d}), "a length of at most 1");
  const double a = rest < rounding ? 0 : std::sqrt(rest);
  const double scale = 2 / (a * a + b * b + c * c + d * d);  // a rounded quaternion has not quite length 1
  const std::array<Triple, 3> rotation{{{1 - scale * (c * c + d * d), scale * (b * c - a * d), scale * (b * d + a * c)},
                                        {scale * (b * c + a * d), 1 - scale * (b * b + d * d), scale * (c * d - a * b)},
                                        {scale * (b * d - a * c), scale * (c * d + a * b), 1 - scale * (b * b + c * c)}}};
  const Triple origin{static_cast<double>(raw.qoffset_x), static_cast<double>(raw.qoffset_y), static_cast<double>(raw.qoffset_z)};
  Affine affine{};
  for (std::size_t row = 0; row < 3; ++row) {
    affine[row] = {rotation[row][0] * pixdim[0], rotation[row][1] * pixdim[1], rotation[row][2] * pixdim[2] * handedness, origin[row]};
  }
  return affine;
}

/// Orientation unknown: the array's own axes, x to the left, the origin in the middle.
template <class Raw>
Affine pixdim_affine_of(const Raw& raw, const std::array<std::size_t, 3>& sizes) {
  const Triple pixdim = pixdim_of(raw);
  Affine affine{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const bool exists = static_cast<int>(axis) < raw.dim[0];
    const double step = (exists ? pixdim[axis] : 1.0) * (axis == 0 ? -1 : 1);
    affine[axis][axis] = step;
    affine[axis][3] = -(static_cast<double>(sizes[axis]) - 1) / 2 * step;
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

double dot(const Affine& affine, std::size_t one, std::size_t other) {
  return affine[0][one] * affine[0][other] + affine[1][one] * affine[1][other] + affine[2][one] * affine[2][other];
}

void require_orthogonal(const Affine& affine) {
  const Triple norms = column_norms(affine);
  bool usable = true;
  Affine to = affine;  // directions: of length 1 whatever the spacing is
  for (std::size_t row = 0; row < 3; ++row) {
    for (const double value : affine[row]) usable = usable && std::isfinite(value);
    for (std::size_t column = 0; column < 3; ++column) {
      usable = usable && std::isfinite(norms[column]) && norms[column] > 0;
      to[row][column] /= norms[column];
    }
  }
  const double determinant = to[0][0] * (to[1][1] * to[2][2] - to[1][2] * to[2][1]) -
                             to[0][1] * (to[1][0] * to[2][2] - to[1][2] * to[2][0]) +
                             to[0][2] * (to[1][0] * to[2][1] - to[1][1] * to[2][0]);
  if (!usable || std::abs(determinant) < 1e-6) refuse("the affine is not invertible", {}, "finite, three independent axes");
  for (const auto& [one, other] : {std::array<std::size_t, 2>{0, 1}, {0, 2}, {1, 2}}) {
    const double cosine = std::abs(dot(to, one, other));
    const std::string found = "a cosine of " + std::to_string(cosine) + " between two axes";
    if (cosine > 1e-2) refuse("the axes are not at right angles", found, "no shear");
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

}  // namespace

template <class Raw>
Affine affine_mm_of(const Raw& raw, const std::array<std::size_t, 3>& sizes) {
  const Triple pixdim = pixdim_of(raw);
  const bool has_sform = raw.sform_code != 0, has_qform = raw.qform_code != 0;
  const bool known = std::all_of(pixdim.begin(), pixdim.end(), [](double step) { return std::isfinite(step) && step != 0; });
  if (!has_sform && !known) refuse("the spacing is unknown", "pixdim " + times(pixdim), "positive numbers, or a valid sform");
  Affine affine = has_sform ? sform_of(raw) : has_qform ? qform_of(raw) : pixdim_affine_of(raw, sizes);
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

template Affine affine_mm_of(const nifti_1_header& raw, const std::array<std::size_t, 3>& sizes);
template Affine affine_mm_of(const nifti_2_header& raw, const std::array<std::size_t, 3>& sizes);

}  // namespace rare
