// What happens to one row once its sums are known. Shared by the CPU and the CUDA kernels; free of torch.
#pragma once

#include <cmath>

#include "common/types.h"

namespace sgr {

enum Reduction : int { kMean = 0, kBatchMean = 1, kSum = 2 };

// How a loss is made of its rows.
struct Options {
  bool normalize;
  double scale;  // s of the loss, see reduction_scale
  Number<double> floor;
  double eps;
};

// Coefficients of dL/d delta = alpha delta + beta target and dL/d target = alpha_target target + beta delta, and
// |dL/d delta|.
struct RowCoef {
  double alpha, beta, alpha_target, length, loss;
};
constexpr int kCoefRows = 4;  // of coef, (kCoefRows, rows): all of these but the loss, in this order

SGR_HOST_DEVICE inline void write_coefficients(const RowCoef& row, int64_t b, int64_t rows, double* coef) {
  coef[b] = row.alpha;
  coef[rows + b] = row.beta;
  coef[2 * rows + b] = row.alpha_target;
  coef[3 * rows + b] = row.length;
}

// s of the loss: 2 / (B n), 2 / B or 2. The loss is s * sum_b w_b (1 - c_b) with the cosine c_b and the floor weight
// w_b; without normalize it is s / 2 * sum_b w_b |delta_b - target_b|^2.
SGR_HOST_DEVICE inline double reduction_scale(int reduction, int64_t rows, int64_t cols) {
  if (reduction == kMean) return 2.0 / (static_cast<double>(rows) * static_cast<double>(cols));
  return reduction == kBatchMean ? 2.0 / static_cast<double>(rows) : 2.0;
}

// min(1, (|delta| / floor)^2), written so that a NaN norm stays NaN.
SGR_HOST_DEVICE inline double floor_weight(double norm, double floor) {
  if (!(floor > 0.0)) return 1.0;
  const double ratio = norm / floor;
  return ratio > 1.0 ? 1.0 : ratio * ratio;
}

// Where rows of T are normalised: is 1 - c taken from the distance of unit rows, and not from the sum of products? The
// latter has an absolute error of 1e-16: nothing for a float32 loss, but float64 would lose digits where rows are
// near-parallel.
template <typename T>
constexpr bool kUnitDistance = std::is_same_v<T, double>;

// sums: sum delta^2, sum target^2 and
//   sum delta target             normalize
//   sum (delta^ - target^)^2     normalize, kUnitDistance
//   sum (delta - target)^2       not normalize
// normalize is an argument beside the options because CUDA kernels know it when they are compiled.
template <typename T>
SGR_HOST_DEVICE RowCoef finish_row(const double* sums, bool normalize, const Options& options) {
  const double dd = sums[0], gg = sums[1], third = sums[2];
  const double s = options.scale, d_norm = sqrt(dd);
  const double w = floor_weight(d_norm, options.floor.get());
  if (!normalize) return {s * w, -s * w, s * w, s * w * sqrt(third), 0.5 * s * w * third};
  const double g_norm = sqrt(gg);
  // Ask for dead, never for live: comparisons with NaN are false, so NaN rows go on and show.
  if (d_norm <= options.eps || g_norm <= options.eps) return {0.0, 0.0, 0.0, 0.0, 0.0};
  const double ratio = sqrt(gg / dd);
  const double c = kUnitDistance<T> ? 1.0 - 0.5 * third : third / gg * ratio;  // exactly 1 for equal rows
  double one_minus_c = kUnitDistance<T> ? 0.5 * third : 1.0 - c;
  if (one_minus_c < 0.0) one_minus_c = 0.0;
  if (one_minus_c > 2.0) one_minus_c = 2.0;
  const double sine = sqrt(one_minus_c * (2.0 - one_minus_c));
  // alpha delta and beta target cancel where the two are parallel. Taking alpha from beta by the ratio of the norms
  // keeps their rounding errors together.
  const double beta = -s * w / (dd * ratio);
  return {-beta * (c * ratio), beta, -beta * (c / ratio), s * w / d_norm * sine, s * w * one_minus_c};
}

}  // namespace sgr
