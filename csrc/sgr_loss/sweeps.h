// The sweeps over rows that sgr_loss and sgr_residual are made of on the CPU.
#pragma once

#include <cmath>

#include "common/row_math.h"
#include "common/segments.h"
#include "sgr_loss/kernel.h"

namespace sgr::cpu {

// Coefficients and loss of the rows [first, last).
template <typename T>
std::vector<RowCoef> row_coefficients(const RowPair<T>& in, int64_t first, int64_t last, const Options& options) {
  constexpr bool exact_distance = std::is_same_v<T, double>;  // 1 - c from float64 sums would lose digits
  std::vector<double> sums;
  if (options.normalize || options.current_floor() > 0.0) {
    sums = row_totals<T, 3>(first, last, in.cols(), [&](int64_t b, int64_t column, int64_t length) {
      return row_sums(in.delta.at(b, column), in.target.at(b, column), length);
    });
  } else {
    sums.assign((last - first) * 3, 0.0);
  }
  const bool half_distance = options.normalize && exact_distance;
  if (half_distance || !options.normalize) {
    const auto distance = row_totals<T, 1>(first, last, in.cols(), [&](int64_t b, int64_t column, int64_t length) {
      const double* s = &sums[(b - first) * 3];
      const double d_scale = half_distance ? 1.0 / std::sqrt(s[0]) : 1.0;
      const double g_scale = half_distance ? 1.0 / std::sqrt(s[1]) : 1.0;
      return std::array{row_distance(in.delta.at(b, column), in.target.at(b, column), length, d_scale, g_scale)};
    });
    for (int64_t b = 0; b < last - first; ++b) sums[b * 3 + 2] = half_distance ? 0.5 * distance[b] : distance[b];
  }
  std::vector<RowCoef> rows(last - first);
  for (int64_t b = 0; b < last - first; ++b)
    rows[b] = finish_row(sums[b * 3], sums[b * 3 + 1], sums[b * 3 + 2], options.normalize, half_distance, options);
  return rows;
}

// out[b] = alpha_b delta_b + beta_b target_b for the rows [first, last), with coefficients(b) = (alpha_b, beta_b). A
// row without coefficients is dead: 0 even where it holds Inf. out: (rows, cols) contiguous.
template <typename T, typename Out, typename Coefficients>
void combine(const RowPair<T>& in, int64_t first, int64_t last, const Coefficients& coefficients, Out* out) {
  for_each_segment(first, last, in.cols(), [&](int64_t b, int64_t, int64_t column, int64_t length) {
    const auto [alpha, beta] = coefficients(b);
    Out* to = out + b * in.cols() + column;
    if (alpha == 0.0 && beta == 0.0) {
      std::fill_n(to, length, Out{});
    } else {
      row_combine(in.delta.at(b, column), in.target.at(b, column), length, alpha, beta, to);
    }
  });
}

}  // namespace sgr::cpu
