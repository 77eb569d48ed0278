// Serial kernels on one contiguous stretch of two rows, d and g: (n); free of torch and of threads.
#pragma once

#include <array>

#include "common/clones.h"
#include "common/half_types.h"

namespace sgr::cpu {

// sum d^2, sum g^2 and sum d g, accumulated in double.
template <typename T>
SGR_CLONES std::array<double, 3> row_sums(const T* __restrict d, const T* __restrict g, int64_t n) {
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

// sum (d_scale d - g_scale g)^2.
template <typename T>
SGR_CLONES double row_distance(const T* __restrict d, const T* __restrict g, int64_t n, double d_scale,
                               double g_scale) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const double difference = d_scale * to_float(d[i]) - g_scale * to_float(g[i]);
    sum += difference * difference;
  }
  return sum;
}

// out = alpha d + beta g. out: (n).
template <typename T, typename Out>
SGR_CLONES void row_combine(const T* __restrict d, const T* __restrict g, int64_t n, double alpha, double beta,
                            Out* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) from_double(alpha * to_float(d[i]) + beta * to_float(g[i]), out + i);
}

}  // namespace sgr::cpu
