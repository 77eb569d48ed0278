// The operators of recorded gates, as far as they are the same on every device.
#pragma once

#include "common/tensors.h"

namespace sgr {

template <class Device>
void check_elements(const Tensor& x) {
  check_place<Device>(x, x, "x");
  require(x.dim() == 1, "x must be one-dimensional, got ", x.dim(), " dimensions");
  require(x.is_contiguous(), "x must be contiguous, got stride ", x.stride(0));
}

// Every device has, for n that may be 0:
//   run_record_relu(device, x, n, slope, y, bits) and run_replay_relu(device, x, bits, n, slope, y)
// x, y: (n); y may be x. bits: ((n + 7) / 8)
template <class Device>
Tensor record(const Tensor& x, double slope, const Tensor& y) {
  check_elements<Device>(x);
  Device device(x);
  auto bits = new_empty(x, {ceil_div(x.numel(), 8)}, ScalarType::Byte);
  dispatch<Device>(x, [&](auto type) {
    using T = decltype(type);
    T* to = mutable_data<T>(y);  // before x is looked at: y may be x
    run_record_relu(device, data<T>(x), x.numel(), slope, to, mutable_data<uint8_t>(bits));
  });
  return bits;
}

template <class Device>
void replay(const Tensor& x, const Tensor& bits, double slope, const Tensor& y) {
  check_elements<Device>(x);
  const int64_t bytes = ceil_div(x.numel(), 8);
  require(bits.scalar_type() == ScalarType::Byte, "bits must be uint8");
  require(bits.dim() == 1 && bits.is_contiguous(), "bits must be one-dimensional and contiguous");
  require(bits.numel() == bytes, "bits must have ", bytes, " bytes for ", x.numel(), " elements of x, got ",
          bits.numel());
  check_place<Device>(bits, x, "bits");
  Device device(x);
  dispatch<Device>(x, [&](auto type) {
    using T = decltype(type);
    T* to = mutable_data<T>(y);
    run_replay_relu(device, data<T>(x), data<uint8_t>(bits), x.numel(), slope, to);
  });
}

template <class Device>
std::tuple<Tensor, Tensor> record_relu(Tensor x, double slope) {
  auto y = new_empty(x, {x.numel()});
  auto bits = record<Device>(x, slope, y);
  return {y, bits};
}

template <class Device>
Tensor record_relu_(Tensor x, double slope) {
  return record<Device>(x, slope, x);
}

template <class Device>
Tensor replay_relu(Tensor x, Tensor bits, double slope) {
  auto y = new_empty(x, {x.numel()});
  replay<Device>(x, bits, slope, y);
  return y;
}

template <class Device>
void replay_relu_(Tensor x, Tensor bits, double slope) {
  replay<Device>(x, bits, slope, x);
}

}  // namespace sgr
