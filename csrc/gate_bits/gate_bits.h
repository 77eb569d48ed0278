// The operators of recorded gates, as far as they are the same on every device.
#pragma once

#include "common/tensors.h"

namespace sgr {

// Every device has, for n that may be 0:
//   run_record_relu(device, x, n, slope, y, bits) and run_replay_relu(device, x, bits, n, slope, y)
// x, y: (n); y may be x. bits: ((n + 7) / 8)
template <class Device>
struct GateBits {
  static std::tuple<Tensor, Tensor> record_relu(Tensor x, double slope) {
    check(x);
    auto y = torch::stable::new_empty(x, {x.numel()});
    auto bits = record(x, slope, y);
    return {y, bits};
  }

  static Tensor record_relu_(Tensor x, double slope) {
    check(x);
    return record(x, slope, x);
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

  static void implement(Library& m) {
    m.impl("record_relu", TORCH_BOX(&record_relu));
    m.impl("record_relu_", TORCH_BOX(&record_relu_));
    m.impl("replay_relu", TORCH_BOX(&replay_relu));
    m.impl("replay_relu_", TORCH_BOX(&replay_relu_));
  }

 private:
  static int64_t bytes(const Tensor& x) { return ceil_div(x.numel(), 8); }

  static void check(const Tensor& x) {
    check_place<Device>(x, x, "x");
    STD_TORCH_CHECK(x.dim() == 1, "x must be one-dimensional, got ", x.dim(), " dimensions");
    STD_TORCH_CHECK(x.is_contiguous(), "x must be contiguous, got stride ", x.stride(0));
  }

  static Tensor record(const Tensor& x, double slope, const Tensor& y) {
    const Device device(x);
    auto bits = torch::stable::new_empty(x, {bytes(x)}, ScalarType::Byte);
    dispatch<Device>(x, [&](auto type) {
      using T = decltype(type);
      T* to = mutable_data<T>(y);  // before x is looked at: y may be x
      run_record_relu(device, data<T>(x), x.numel(), slope, to, mutable_data<uint8_t>(bits));
    });
    return bits;
  }

  static void replay(const Tensor& x, const Tensor& bits, double slope, const Tensor& y) {
    STD_TORCH_CHECK(bits.scalar_type() == ScalarType::Byte, "bits must be uint8");
    STD_TORCH_CHECK(bits.dim() == 1 && bits.is_contiguous(), "bits must be one-dimensional and contiguous");
    STD_TORCH_CHECK(bits.numel() == bytes(x), "bits must have ", bytes(x), " bytes for ", x.numel(),
                    " elements of x, got ", bits.numel());
    check_place<Device>(bits, x, "bits");
    const Device device(x);
    dispatch<Device>(x, [&](auto type) {
      using T = decltype(type);
      T* to = mutable_data<T>(y);
      run_replay_relu(device, data<T>(x), data<uint8_t>(bits), x.numel(), slope, to);
    });
  }
};

}  // namespace sgr
