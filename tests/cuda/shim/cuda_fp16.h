#pragma once

#include "small_floats.h"

struct __half {
  uint16_t bits;
};

inline float __half2float(__half x) { return static_cast<float>(cuda_shim::SmallFloat<5, 10>::decode(x.bits)); }
inline __half __double2half(double x) { return {cuda_shim::SmallFloat<5, 10>::encode(x)}; }
