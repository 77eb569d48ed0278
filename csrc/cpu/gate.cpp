#include "sgr/cpu/gate.h"

#include "sgr/cpu/clones.h"
#include "sgr/cpu/element_bits.h"

namespace sgr::cpu {
namespace {

// Asks for closed gates: NaN passes, and shows. A mask, because compilers vectorise that and not a choice. Returns what it
// stores.
template <typename T>
SGR_ALWAYS_INLINE double gate(const T& grad, const T& output, T* out) {
  using Bits = decltype(to_bits(grad));
  const Bits open = to_float(output) <= 0 ? Bits{0} : static_cast<Bits>(~Bits{0});
  from_bits(static_cast<Bits>(to_bits(grad) & open), out);
  return to_float(*out);
}

template <typename T>
SGR_ALWAYS_INLINE void columns_body(const T* __restrict grad, const T* __restrict output, int64_t n, T* __restrict out,
                                    double* __restrict sums) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sums[i] += gate(grad[i], output[i], out + i);
}

template <typename T>
SGR_ALWAYS_INLINE double slice_body(const T* __restrict grad, const T* __restrict output, int64_t n, T* __restrict out) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += gate(grad[i], output[i], out + i);
  return sum;
}

}  // namespace

#define SGR_DEFINE_GATE(T)                                                                                   \
  SGR_CLONES void gate_columns(const T* grad, const T* output, int64_t n, T* out, double* sums) {            \
    columns_body(grad, output, n, out, sums);                                                                \
  }                                                                                                          \
  SGR_CLONES double gate_slice(const T* grad, const T* output, int64_t n, T* out) {                          \
    return slice_body(grad, output, n, out);                                                                 \
  }

SGR_DEFINE_GATE(double)
SGR_DEFINE_GATE(float)
SGR_DEFINE_GATE(BFloat16)
SGR_DEFINE_GATE(Float16)

}  // namespace sgr::cpu
