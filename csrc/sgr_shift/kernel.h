// Serial kernel of the shift; free of torch and of threads.
#pragma once

#include "common/clones.h"
#include "common/half_types.h"

namespace sgr::cpu {

// out = x + alpha d + beta g, all (n).
template <typename T>
SGR_CLONES void row_shift(const T* __restrict x, const T* __restrict d, const T* __restrict g, int64_t n, double alpha,
                          double beta, T* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const auto v = alpha * to_float(d[i]) + beta * to_float(g[i]);
    from_double(to_float(x[i]) + v, out + i);
  }
}

}  // namespace sgr::cpu
