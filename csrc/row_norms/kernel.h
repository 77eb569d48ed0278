// Euclidean norm of every row on the CPU.
#pragma once

#include <cmath>

#include "common/cpu.h"
#include "common/segments.h"

namespace sgr::cpu {

// sum x^2, accumulated in double. x: (n). Four sums side by side: a single one would wait for its previous addition
// most of the time.
template <typename T>
SGR_CLONES double square_sum(const T* x, int64_t n) {
  const int64_t quarter = n / 4;
  const T *second = x + quarter, *third = second + quarter, *fourth = third + quarter;
  double a = 0.0, b = 0.0, c = 0.0, d = 0.0;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = 0; i < quarter; ++i) {
    const double p = to_float(x[i]), q = to_float(second[i]), r = to_float(third[i]), s = to_float(fourth[i]);
    a += p * p;
    b += q * q;
    c += r * r;
    d += s * s;
  }
  for (int64_t i = 4 * quarter; i < n; ++i) {
    const double p = to_float(x[i]);
    a += p * p;
  }
  return (a + b) + (c + d);
}

// norms: (rows).
template <typename T>
void run_row_norms(const Device&, const RowSet<T, 1>& in, double* norms) {
  const auto squares = row_totals<T, 1>(in.rows(), in.cols(), [&](int64_t b, int64_t column, int64_t length) {
    return std::array{square_sum(in[0].at(b, column), length)};
  });
  for (int64_t b = 0; b < in.rows(); ++b) norms[b] = std::sqrt(squares[b]);
}

}  // namespace sgr::cpu
