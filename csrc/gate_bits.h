// The registered operators of recorded gates, as far as they are the same on every device.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

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

// Device has static functions: check(x), bits = record(x, slope, y) and replay(x, bits, slope, y). They write y, which may
// be x.
template <typename Device>
struct GateOperators {
  static std::tuple<Tensor, Tensor> record_relu(Tensor x, double slope) {
    check(x);
    auto y = torch::stable::new_empty(x, {x.numel()});
    auto bits = Device::record(x, slope, y);
    return {y, bits};
  }

  static Tensor record_relu_(Tensor x, double slope) {
    check(x);
    return Device::record(x, slope, x);
  }

  static Tensor replay_relu(Tensor x, Tensor bits, double slope) {
    check(x);
    auto y = torch::stable::new_empty(x, {x.numel()});
    replay(x, bits, slope, y);
    return y;
  }

  static void replay_relu_(Tensor x, Tensor bits, double slope) {
    check(x);
    replay(x, bits, slope, x);
  }

 private:
  static void check(const Tensor& x) {
    Device::check(x);
    check_gated(x);
  }

  static void replay(const Tensor& x, const Tensor& bits, double slope, const Tensor& y) {
    check_gate_bits(bits, x);
    Device::replay(x, bits, slope, y);
  }
};

#define SGR_IMPLEMENT_GATES(library, Device)                                       \
  library.impl("record_relu", TORCH_BOX(&GateOperators<Device>::record_relu));     \
  library.impl("record_relu_", TORCH_BOX(&GateOperators<Device>::record_relu_));   \
  library.impl("replay_relu", TORCH_BOX(&GateOperators<Device>::replay_relu));     \
  library.impl("replay_relu_", TORCH_BOX(&GateOperators<Device>::replay_relu_))

}  // namespace sgr
