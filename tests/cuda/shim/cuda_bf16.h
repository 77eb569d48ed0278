#pragma once

#include "small_floats.h"

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return static_cast<float>(cuda_shim::SmallFloat<8, 7>::decode(x.bits)); }
inline __nv_bfloat16 __double2bfloat16(double x) { return {cuda_shim::SmallFloat<8, 7>::encode(x)}; }
