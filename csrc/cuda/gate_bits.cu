// The registered CUDA operators of recorded gates: check tensors, launch on the current stream.
#include <torch/csrc/stable/library.h>

#include "../gate_bits.h"
#include "sgr/cuda/gate_bits.cuh"
#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cuda;

// y may be x.
template <typename T>
Gated<T> gated(const Tensor& x, double slope, const Tensor& y) {
  T* to = mutable_data<T>(y);
  return {data<T>(x), to, x.numel(), slope};
}

struct Cuda {
  static void check(const Tensor& x) { STD_TORCH_CHECK(x.is_cuda(), "x must be a CUDA tensor"); }

  static Tensor record(const Tensor& x, double slope, const Tensor& y) {
    const DeviceGuard guard(x.get_device_index());
    auto bits = torch::stable::new_empty(x, {gate_bytes(x)}, ScalarType::Byte);
    dispatch(x.scalar_type(), [&](auto type) {
      using T = decltype(type);
      STD_CUDA_CHECK(launch_record_relu(gated<T>(x, slope, y), mutable_data<uint8_t>(bits), current_stream(x)));
    });
    return bits;
  }

  static void replay(const Tensor& x, const Tensor& bits, double slope, const Tensor& y) {
    check_on_device_of(x, bits, "bits must be on the device of x");
    const DeviceGuard guard(x.get_device_index());
    dispatch(x.scalar_type(), [&](auto type) {
      using T = decltype(type);
      STD_CUDA_CHECK(launch_replay_relu(gated<T>(x, slope, y), data<uint8_t>(bits), current_stream(x)));
    });
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { SGR_IMPLEMENT_GATES(m, Cuda); }
