// The registered CUDA operators of the cross entropy: check tensors, take workspace from torch's allocator, launch on
// the current stream.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "sgr/cuda/cross_entropy.cuh"
#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cuda;

// That labels are in range is left to the kernels: to look here would wait for the device.
void check_logits(const Tensor& logits, const Tensor& labels) {
  check_rows(logits, "logits");
  STD_TORCH_CHECK(logits.is_cuda(), "logits must be a CUDA tensor");
  STD_TORCH_CHECK(labels.dim() == 1 && labels.size(0) == logits.size(0) && labels.is_contiguous() &&
                      labels.scalar_type() == ScalarType::Long,
                  "labels must be contiguous int64, one a row of logits");
  check_on_device_of(logits, labels, "labels must be on the device of logits");
}

template <typename T>
Logits<T> logits_of(const Tensor& logits, const Tensor& labels) {
  return {data<T>(logits), data<int64_t>(labels), logits.size(0), logits.size(1), logits.stride(0)};
}

std::tuple<Tensor, Tensor> cross_entropy(Tensor logits, Tensor labels) {
  check_logits(logits, labels);
  const DeviceGuard guard(logits.get_device_index());
  auto loss = torch::stable::new_empty(logits, {}, result_type(logits));
  auto gradient = torch::stable::new_empty(logits, {logits.size(0), logits.size(1)}, result_type(logits));
  if (logits.numel() == 0) return {torch::stable::fill_(loss, NAN), gradient};  // the mean of nothing
  const auto memory =
      torch::stable::new_empty(logits, {cross_entropy_doubles(logits.size(0))}, ScalarType::Double);
  dispatch(logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(launch_cross_entropy(logits_of<T>(logits, labels), mutable_data<double>(memory),
                                        mutable_data<Wide<T>>(loss), mutable_data<Wide<T>>(gradient),
                                        current_stream(logits)));
  });
  return {loss, gradient};
}

Tensor cross_entropy_hvp(Tensor logits, Tensor labels, Tensor tangent) {
  check_logits(logits, labels);
  check_same_shape(logits, tangent, "logits and tangent");
  check_rows(tangent, "tangent");
  STD_TORCH_CHECK(tangent.scalar_type() == result_type(logits), "tangent must have the dtype of the gradient");
  check_on_device_of(logits, tangent, "tangent must be on the device of logits");
  const DeviceGuard guard(logits.get_device_index());
  auto out = torch::stable::new_empty(logits, {logits.size(0), logits.size(1)}, result_type(logits));
  if (logits.numel() == 0) return out;
  dispatch(logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(launch_cross_entropy_hvp(logits_of<T>(logits, labels), data<Wide<T>>(tangent), tangent.stride(0),
                                            mutable_data<Wide<T>>(out), current_stream(logits)));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("cross_entropy", TORCH_BOX(&cross_entropy));
  m.impl("cross_entropy_hvp", TORCH_BOX(&cross_entropy_hvp));
}
