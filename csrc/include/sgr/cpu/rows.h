// Serial kernels on one contiguous stretch of a row; free of torch and of threads. Each picks its instruction set when
// the library is loaded.
#pragma once

#include "sgr/cpu/half_types.h"

namespace sgr::cpu {

struct Sums {
  double dd, gg, dg;
};

// sum d^2, sum g^2 and sum d g, accumulated in double.
#define SGR_DECLARE_ROWS(T)                                                               \
  Sums row_sums(const T* d, const T* g, int64_t n);                                       \
  /* sum (d_scale d - g_scale g)^2 */                                                     \
  double row_distance(const T* d, const T* g, int64_t n, double d_scale, double g_scale); \
  /* out = alpha d + beta g, and x + alpha d + beta g */                                  \
  void row_combine(const T* d, const T* g, int64_t n, double alpha, double beta, T* out); \
  void row_shift(const T* x, const T* d, const T* g, int64_t n, double alpha, double beta, T* out);

SGR_DECLARE_ROWS(double)
SGR_DECLARE_ROWS(float)
SGR_DECLARE_ROWS(BFloat16)
SGR_DECLARE_ROWS(Float16)
#undef SGR_DECLARE_ROWS

void row_combine(const BFloat16* d, const BFloat16* g, int64_t n, double alpha, double beta, float* out);
void row_combine(const Float16* d, const Float16* g, int64_t n, double alpha, double beta, float* out);

}  // namespace sgr::cpu
