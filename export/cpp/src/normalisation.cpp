#include "rare/normalisation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <variant>

namespace rare {
namespace {

/// Returns a percentile, linear between order statistics like numpy's. `sorted` is reused for both percentiles and sorted as far as needed.
double percentile(std::vector<float>& values, double percent) {
  const double position = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(std::floor(position));
  const double part = position - std::floor(position);
  const auto low_place = values.begin() + below;
  std::nth_element(values.begin(), low_place, values.end());
  const double low = *low_place;
  const double high = low_place + 1 == values.end() ? low : *std::min_element(low_place + 1, values.end());
  return part < 0.5 ? low + (high - low) * part : high - (high - low) * (1 - part);
}

void by_percentiles(float* first, float* last, const PercentileNormalisation& rule) {
  std::vector<float> copy(first, last);
  if (rule.of_nonzero && std::any_of(first, last, [](float value) { return value != 0; })) {
    copy.erase(std::remove(copy.begin(), copy.end(), 0.0F), copy.end());
  }
  double low = percentile(copy, rule.lower);
  double high = percentile(copy, rule.upper);
  if (low == high) {  // a small structure on a constant background: use the voxels that differ from it
    const auto fill = static_cast<float>(low);
    copy.erase(std::remove(copy.begin(), copy.end(), fill), copy.end());
    if (!copy.empty()) {
      low = std::min(low, percentile(copy, rule.lower));
      high = std::max(high, percentile(copy, rule.upper));
    }
  }
  const auto extent = static_cast<float>(high - low);
  std::transform(first, last, first, [=](float value) {
    if (extent == 0) return 0.0F;
    // the difference of float32 extremes needs float64
    const float scaled = std::isfinite(extent) ? (value - static_cast<float>(low)) / extent
                                               : static_cast<float>((value - low) / (high - low));
    return std::clamp(scaled, 0.0F, 1.0F);
  });
}

void standardise(float* first, float* last) {
  const auto [least, largest] = std::minmax_element(first, last);
  if (*least == *largest) return std::fill(first, last, 0.0F);
  const auto num = static_cast<double>(last - first);
  const double mean = std::accumulate(first, last, 0.0) / num;
  const double squares = std::accumulate(first, last, 0.0, [=](double sum, float value) { return sum + (value - mean) * (value - mean); });
  const auto extent = static_cast<float>(mean + std::sqrt(squares / num) - mean);
  std::transform(first, last, first, [=](float value) { return extent == 0 ? 0.0F : (value - static_cast<float>(mean)) / extent; });
}

/// Normalises the voxels of one channel, of which the rule may hold numbers.
struct OneChannel {
  float *first, *last;
  std::size_t channel;

  void operator()(const PercentileNormalisation& rule) const { by_percentiles(first, last, rule); }
  void operator()(const CtNormalisation& rule) const {
    const float lower = rule.lower.at(channel), upper = rule.upper.at(channel), mean = rule.mean.at(channel), std = rule.std.at(channel);
    std::transform(first, last, first, [=](float value) { return (std::clamp(value, lower, upper) - mean) / std; });
  }
  void operator()(const ZScoreNormalisation& /*rule*/) const { standardise(first, last); }
  void operator()(const NoNormalisation& /*rule*/) const {}
  void operator()(const PerChannelNormalisation& rule) const { std::visit(OneChannel{first, last, 0}, rule.rules.at(channel)); }
};

}  // namespace

void normalise(Image& image, const Normalisation& rule) {
  const std::size_t size = num_voxels(image.shape);
  for (std::size_t channel = 0; channel < image.num_channels; ++channel) {
    float* const first = image.values.data() + channel * size;
    std::visit(OneChannel{first, first + size, channel}, rule);
  }
}

}  // namespace rare
