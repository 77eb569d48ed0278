// The registered CUDA operators of recorded gates: check tensors, launch on the current stream.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../gate_bits.h"
#include "sgr/cuda/gate_bits.cuh"
#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cuda;

void check_x(const Tensor& x) {
  STD_TORCH_CHECK(x.is_cuda(), "x must be a CUDA tensor");
  check_gated(x);
}

// y may be x.
template <typename T>
Gated<T> gated(const Tensor& x, double slope, const Tensor& y) {
  T* to = mutable_data<T>(y);
  return {data<T>(x), to, x.numel(), slope};
}

// Writes y.
Tensor record(const Tensor& x, double slope, const Tensor& y) {
  const DeviceGuard guard(x.get_device_index());
  auto bits = torch::stable::new_empty(x, {gate_bytes(x)}, ScalarType::Byte);
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(launch_record_relu(gated<T>(x, slope, y), mutable_data<uint8_t>(bits), current_stream(x)));
  });
  return bits;
}

void replay(const Tensor& x, const Tensor& bits, double slope, const Tensor& y) {
  check_on_device_of(x, bits, "bits must be on the device of x");
  check_gate_bits(bits, x);
  const DeviceGuard guard(x.get_device_index());
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(launch_replay_relu(gated<T>(x, slope, y), data<uint8_t>(bits), current_stream(x)));
  });
}

std::tuple<Tensor, Tensor> record_relu(Tensor x, double slope) {
  check_x(x);
  auto y = torch::stable::new_empty(x, {x.numel()});
  auto bits = record(x, slope, y);
  return {y, bits};
}

Tensor record_relu_(Tensor x, double slope) {
  check_x(x);
  return record(x, slope, x);
}

Tensor replay_relu(Tensor x, Tensor bits, double slope) {
  check_x(x);
  auto y = torch::stable::new_empty(x, {x.numel()});
  replay(x, bits, slope, y);
  return y;
}

void replay_relu_(Tensor x, Tensor bits, double slope) {
  check_x(x);
  replay(x, bits, slope, x);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("record_relu", TORCH_BOX(&record_relu));
  m.impl("record_relu_", TORCH_BOX(&record_relu_));
  m.impl("replay_relu", TORCH_BOX(&replay_relu));
  m.impl("replay_relu_", TORCH_BOX(&replay_relu_));
}
