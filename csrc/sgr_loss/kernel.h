// The sums of rows of which the loss and its gradients are made, on the CPU; sgr_residual needs them too.
#pragma once

#include "common/cpu.h"
#include "common/segments.h"
#include "sgr_loss/row_math.h"

namespace sgr::cpu {

// sum d^2, sum g^2 and sum d g, accumulated in double. d, g: (n).
template <typename T>
SGR_CLONES std::array<double, 3> stretch_sums(const T* __restrict d, const T* __restrict g, int64_t n) {
  double dd = 0.0, gg = 0.0, dg = 0.0;
#pragma omp simd reduction(+ : dd, gg, dg)
  for (int64_t i = 0; i < n; ++i) {
    const double x = to_float(d[i]), y = to_float(g[i]);
    dd += x * x;
    gg += y * y;
    dg += x * y;
  }
  return {dd, gg, dg};
}

// sum (d_scale d - g_scale g)^2. d, g: (n).
template <typename T>
SGR_CLONES double stretch_distance(const T* __restrict d, const T* __restrict g, int64_t n, double d_scale,
                                   double g_scale) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const double difference = d_scale * to_float(d[i]) - g_scale * to_float(g[i]);
    sum += difference * difference;
  }
  return sum;
}

// Adds the losses of the rows to *loss. coef: (kCoefRows, rows).
template <typename T>
void row_coefficients(const RowSet<T, 2>& in, const Options& options, double* coef, double* loss) {
  const bool of_units = options.normalize && kUnitDistance<T>;
  const int64_t rows = in.rows(), cols = in.cols();
  std::vector<double> sums(rows * 3);
  if (options.normalize || options.floor.get() > 0.0) {
    sums = row_totals<T, 3>(rows, cols, [&](int64_t b, int64_t column, int64_t length) {
      return stretch_sums(in[0].at(b, column), in[1].at(b, column), length);
    });
  }
  if (of_units || !options.normalize) {
    const auto distance = row_totals<T, 1>(rows, cols, [&](int64_t b, int64_t column, int64_t length) {
      const double d_scale = of_units ? 1.0 / std::sqrt(sums[b * 3]) : 1.0;
      const double g_scale = of_units ? 1.0 / std::sqrt(sums[b * 3 + 1]) : 1.0;
      return std::array{stretch_distance(in[0].at(b, column), in[1].at(b, column), length, d_scale, g_scale)};
    });
    for (int64_t b = 0; b < rows; ++b) sums[b * 3 + 2] = distance[b];
  }
  for (int64_t b = 0; b < rows; ++b) {
    const RowCoef row = finish_row<T>(&sums[b * 3], options.normalize, options);
    write_coefficients(row, b, rows, coef);
    *loss += row.loss;
  }
}

}  // namespace sgr::cpu
