// Serial kernel of the row norms; free of torch and of threads.
#pragma once

#include "common/clones.h"
#include "common/half_types.h"

namespace sgr::cpu {

// sum x^2, accumulated in double. x: (n). Four sums side by side: a single one would wait for its previous addition
// most of the time.
template <typename T>
SGR_CLONES double row_square(const T* x, int64_t n) {
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

}  // namespace sgr::cpu
