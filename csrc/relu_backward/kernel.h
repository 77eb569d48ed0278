// Serial kernels of the backward pass of a ReLU; free of torch and of threads. out = grad where output > 0 (or NaN),
// else 0. grad, output, out: (n).
#pragma once

#include "common/clones.h"
#include "common/half_types.h"

namespace sgr::cpu {

// Asks for closed gates: NaN passes, and shows. A mask, because compilers vectorise that and not a choice. Returns what
// it stores.
template <typename T>
SGR_ALWAYS_INLINE double mask(const T& grad, const T& output, T* out) {
  using Bits = decltype(to_bits(grad));
  const Bits open = to_float(output) <= 0 ? Bits{0} : static_cast<Bits>(~Bits{0});
  from_bits(static_cast<Bits>(to_bits(grad) & open), out);
  return to_float(*out);
}

// Adds out to the sums of its columns. sums: (n).
template <typename T>
SGR_CLONES void mask_columns(const T* __restrict grad, const T* __restrict output, int64_t n, T* __restrict out,
                             double* __restrict sums) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sums[i] += mask(grad[i], output[i], out + i);
}

// Returns the sum of out.
template <typename T>
SGR_CLONES double mask_slice(const T* __restrict grad, const T* __restrict output, int64_t n, T* __restrict out) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += mask(grad[i], output[i], out + i);
  return sum;
}

}  // namespace sgr::cpu
