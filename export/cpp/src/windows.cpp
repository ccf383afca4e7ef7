#include "rare/windows.h"

#include <algorithm>
#include <cmath>

namespace rare {
namespace {

/// Copies a box of `extent` voxels, line by line along Z, between two arrays (channels, X, Y, Z) of different sizes.
template <class Copy>
void for_each_line(std::size_t num_channels, const Shape& extent, const Shape& one, const Shape& one_start, const Shape& other, Copy copy) {
  for (std::size_t channel = 0; channel < num_channels; ++channel) {
    for (std::size_t x = 0; x < extent[0]; ++x) {
      for (std::size_t y = 0; y < extent[1]; ++y) {
        const std::size_t in_one = ((channel * one[0] + one_start[0] + x) * one[1] + one_start[1] + y) * one[2] + one_start[2];
        const std::size_t in_other = ((channel * other[0] + x) * other[1] + y) * other[2];
        copy(in_one, in_other);
      }
    }
  }
}

std::vector<float> window_weights(const Shape& window, const WindowRule& rule) {
  std::array<std::vector<double>, 3> axes;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const auto size = static_cast<double>(window[axis]);
    for (std::size_t index = 0; index < window[axis]; ++index) {
      const double place = (static_cast<double>(index) - (size - 1) / 2) / (rule.sigma * size);
      axes[axis].push_back(std::exp(-0.5 * (place * place)));
    }
  }
  std::vector<float> weights;
  weights.reserve(num_voxels(window));
  for (const double x : axes[0]) {
    for (const double y : axes[1]) {
      for (const double z : axes[2]) weights.push_back(static_cast<float>(std::max(x * y * z, rule.min_weight)));
    }
  }
  return weights;
}

Shape smaller(const Shape& one, const Shape& other) {
  return {std::min(one[0], other[0]), std::min(one[1], other[1]), std::min(one[2], other[2])};
}

/// Returns the logits of one window that covers the whole image and any padding at its end.
Image cut(const std::vector<float>& logits, std::size_t num_classes, const Shape& window, const Shape& shape) {
  Image result{num_classes, shape, std::vector<float>(num_classes * num_voxels(shape))};
  for_each_line(num_classes, shape, shape, {}, window, [&, length = shape[2]](std::size_t in_result, std::size_t in_window) {
    std::copy_n(&logits[in_window], length, &result.values[in_result]);
  });
  return result;
}

}  // namespace

Shape window_shape(const Shape& shape, const EngineFacts& engine) {
  Shape window{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const std::size_t divisor = engine.divisors[axis];
    const std::size_t enlarged = std::max(engine.min_shape[axis], (shape[axis] + divisor - 1) / divisor * divisor);
    window[axis] = std::min(enlarged, engine.patch_shape[axis]);
  }
  return window;
}

double num_windows(std::size_t size, std::size_t window, double overlap) {
  return size <= window ? 1 : std::ceil(static_cast<double>(size - window) / (static_cast<double>(window) * (1 - overlap))) + 1;
}

std::vector<std::size_t> window_starts(std::size_t size, std::size_t window, double overlap) {
  if (size <= window) return {0};
  const auto rest = static_cast<double>(size - window);
  const double num = num_windows(size, window, overlap);
  std::vector<std::size_t> starts;
  for (double index = 0; index < num; ++index) starts.push_back(static_cast<std::size_t>(std::floor(index * rest / (num - 1) + 0.5)));
  return starts;
}

Image sliding_logits(const Image& image, std::size_t num_classes, const Shape& window, const WindowRule& rule, Engine& engine) {
  const Shape inside = smaller(image.shape, window);
  std::vector<float> input(image.num_channels * num_voxels(window), rule.padding_value);
  std::vector<float> answer(num_classes * num_voxels(window));
  const auto run_at = [&](const Shape& start) {
    for_each_line(image.num_channels, inside, image.shape, start, window, [&](std::size_t in_image, std::size_t in_window) {
      std::copy_n(&image.values[in_image], inside[2], &input[in_window]);
    });
    engine.run(input, answer);
  };
  if (inside == image.shape) {
    run_at({});
    return cut(answer, num_classes, window, image.shape);
  }
  const std::vector<float> weights = window_weights(window, rule);
  Image total{num_classes, image.shape, std::vector<float>(num_classes * num_voxels(image.shape))};
  std::vector<float> total_weight(num_voxels(image.shape));
  for (const std::size_t x : window_starts(image.shape[0], window[0], rule.overlap)) {
    for (const std::size_t y : window_starts(image.shape[1], window[1], rule.overlap)) {
      for (const std::size_t z : window_starts(image.shape[2], window[2], rule.overlap)) {
        run_at({x, y, z});
        for_each_line(num_classes, inside, image.shape, {x, y, z}, window, [&](std::size_t in_total, std::size_t in_window) {
          const std::size_t in_weights = in_window % weights.size();
          for (std::size_t i = 0; i < inside[2]; ++i) total.values[in_total + i] += weights[in_weights + i] * answer[in_window + i];
        });
        for_each_line(1, inside, image.shape, {x, y, z}, window, [&](std::size_t in_total, std::size_t in_window) {
          for (std::size_t i = 0; i < inside[2]; ++i) total_weight[in_total + i] += weights[in_window + i];
        });
      }
    }
  }
  for (std::size_t index = 0; index < num_classes; ++index) {
    float* const sums = total.values.data() + index * total_weight.size();
    std::transform(total_weight.begin(), total_weight.end(), sums, sums, [](float weight, float sum) { return sum / weight; });
  }
  return total;
}

}  // namespace rare
