// The registered CUDA operator of the gate: checks tensors, takes workspace from torch's allocator, launches on the
// current stream.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "sgr/cuda/relu_backward.cuh"
#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cuda;

std::tuple<Tensor, Tensor> relu_backward(Tensor grad, Tensor output, bool sum_channels) {
  check_alike(grad, output, "grad and output");
  STD_TORCH_CHECK(grad.dim() == 3 && grad.is_contiguous() && output.is_contiguous(),
                  "grad and output must be contiguous (R, C, S)");
  const int64_t rows = grad.size(0), channels = grad.size(1), size = grad.size(2);
  const DeviceGuard guard(grad.get_device_index());
  auto masked = torch::stable::new_empty(grad, {rows, channels, size});
  if (grad.numel() == 0)
    return {masked, torch::stable::new_zeros(grad, {sum_channels ? channels : 0}, result_type(grad))};
  auto sums = torch::stable::new_empty(grad, {sum_channels ? channels : 0}, result_type(grad));
  dispatch(grad.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Gate<T> gate{data<T>(grad), data<T>(output), mutable_data<T>(masked), rows, channels, size};
    const GatePlan plan = plan_gate(gate, sum_channels);
    const auto partial =
        torch::stable::new_empty(grad, {sum_channels ? plan.doubles(channels) : 0}, ScalarType::Double);
    STD_CUDA_CHECK(launch_relu_backward(gate, plan, mutable_data<double>(partial),
                                        sum_channels ? mutable_data<Wide<T>>(sums) : nullptr, current_stream(grad)));
  });
  return {masked, sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { m.impl("relu_backward", TORCH_BOX(&relu_backward)); }
