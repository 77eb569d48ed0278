// Serial kernels of the gate of a ReLU layer; free of torch and of threads.
#pragma once

#include "sgr/cpu/half_types.h"

namespace sgr::cpu {

// out = grad where output > 0 (or NaN), else 0. The first adds out to the n sums of its columns, the second returns its
// sum.
#define SGR_DECLARE_GATE(T)                                                              \
  void gate_columns(const T* grad, const T* output, int64_t n, T* out, double* sums);    \
  double gate_slice(const T* grad, const T* output, int64_t n, T* out);

SGR_DECLARE_GATE(double)
SGR_DECLARE_GATE(float)
SGR_DECLARE_GATE(BFloat16)
SGR_DECLARE_GATE(Float16)
#undef SGR_DECLARE_GATE

}  // namespace sgr::cpu
