#include "sgr/cpu/rows.h"

#include "sgr/cpu/clones.h"

namespace sgr::cpu {
namespace {

template <typename T>
SGR_ALWAYS_INLINE Sums sums_body(const T* __restrict d, const T* __restrict g, int64_t n) {
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

template <typename T>
SGR_ALWAYS_INLINE double distance_body(const T* __restrict d, const T* __restrict g, int64_t n, double d_scale,
                                       double g_scale) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const double difference = d_scale * to_float(d[i]) - g_scale * to_float(g[i]);
    sum += difference * difference;
  }
  return sum;
}

template <typename T, typename Out>
SGR_ALWAYS_INLINE void combine_body(const T* __restrict d, const T* __restrict g, int64_t n, double alpha, double beta,
                                    Out* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = FromDouble<Out>::convert(alpha * to_float(d[i]) + beta * to_float(g[i]));
}

template <typename T>
SGR_ALWAYS_INLINE void shift_body(const T* __restrict x, const T* __restrict d, const T* __restrict g, int64_t n,
                                  double alpha, double beta, T* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i)
    out[i] = FromDouble<T>::convert(to_float(x[i]) + (alpha * to_float(d[i]) + beta * to_float(g[i])));
}

}  // namespace

#define SGR_DEFINE_COMBINE(T, Out)                                                                                    \
  SGR_CLONES void row_combine(const T* d, const T* g, int64_t n, double alpha, double beta, Out* out) {               \
    combine_body(d, g, n, alpha, beta, out);                                                                          \
  }

#define SGR_DEFINE_ROWS(T)                                                                                            \
  SGR_CLONES Sums row_sums(const T* d, const T* g, int64_t n) { return sums_body(d, g, n); }                          \
  SGR_CLONES double row_distance(const T* d, const T* g, int64_t n, double d_scale, double g_scale) {                 \
    return distance_body(d, g, n, d_scale, g_scale);                                                                  \
  }                                                                                                                   \
  SGR_CLONES void row_shift(const T* x, const T* d, const T* g, int64_t n, double alpha, double beta, T* out) {        \
    shift_body(x, d, g, n, alpha, beta, out);                                                                         \
  }                                                                                                                   \
  SGR_DEFINE_COMBINE(T, T)

SGR_DEFINE_ROWS(double)
SGR_DEFINE_ROWS(float)
SGR_DEFINE_ROWS(BFloat16)
SGR_DEFINE_ROWS(Float16)
SGR_DEFINE_COMBINE(BFloat16, float)
SGR_DEFINE_COMBINE(Float16, float)

}  // namespace sgr::cpu
