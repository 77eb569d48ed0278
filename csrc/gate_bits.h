// What the registered operators of recorded gates demand of their arguments on every device.
#pragma once

#include "tensors.h"

namespace sgr {

inline int64_t gate_bytes(const Tensor& x) { return (x.numel() + 7) / 8; }

inline void check_gated(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 1, "x must be one-dimensional, got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(x.is_contiguous(), "x must be contiguous, got stride ", x.stride(0));
}

inline void check_gate_bits(const Tensor& bits, const Tensor& x) {
  STD_TORCH_CHECK(bits.scalar_type() == ScalarType::Byte, "bits must be uint8");
  STD_TORCH_CHECK(bits.dim() == 1 && bits.is_contiguous(), "bits must be one-dimensional and contiguous");
  STD_TORCH_CHECK(bits.numel() == gate_bytes(x), "bits must have ", gate_bytes(x), " bytes for ", x.numel(),
                  " elements of x, got ", bits.numel());
}

}  // namespace sgr
