// Serial kernels of recorded gates; free of torch and of threads.
#pragma once

#include "sgr/cpu/half_types.h"

namespace sgr::cpu {

// y = leaky ReLU of x, with bit i % 8 of byte i / 8 set where x > 0 (or NaN), and no bit beyond n. The second is given
// the bits. Closed gates let slope * x through, and plain 0 if slope is 0. y may be x.
#define SGR_DECLARE_GATE_WORDS(T)                                              \
  void record_gates(const T* x, int64_t n, double slope, T* y, uint8_t* bits); \
  void replay_gates(const T* x, const uint8_t* bits, int64_t n, double slope, T* y);

SGR_DECLARE_GATE_WORDS(double)
SGR_DECLARE_GATE_WORDS(float)
SGR_DECLARE_GATE_WORDS(BFloat16)
SGR_DECLARE_GATE_WORDS(Float16)
#undef SGR_DECLARE_GATE_WORDS

}  // namespace sgr::cpu
