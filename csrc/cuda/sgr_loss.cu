// The registered CUDA operators of the residual: check tensors, take workspace from torch's allocator, launch on the
// current stream.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "sgr/cuda/combine.cuh"
#include "sgr/cuda/loss.cuh"
#include "sgr/cuda/residual.cuh"
#include "sgr/cuda/shift.cuh"
#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cuda;

void check_pair(const Tensor& delta, const Tensor& target) {
  check_alike(delta, target, "delta and target");
  check_rows(delta, "delta");
  check_rows(target, "target");
}

void check_coefficients(const Tensor& delta, const Tensor& alpha, const Tensor& beta) {
  for (const auto& coefficient : {alpha, beta}) {
    STD_TORCH_CHECK(coefficient.scalar_type() == ScalarType::Double && coefficient.is_contiguous() &&
                        coefficient.numel() == delta.size(0),
                    "alpha and beta must be contiguous float64 tensors, one number a row");
    check_on_device_of(delta, coefficient, "alpha and beta must be on the device of delta");
  }
}

template <typename T>
Rows<T> rows_of(const Tensor& delta, const Tensor& target) {
  return {data<T>(delta), data<T>(target), delta.size(0), delta.size(1), delta.stride(0), target.stride(0)};
}

Options make_options(const Tensor& delta, bool normalize, int64_t reduction, double floor,
                     const std::optional<Tensor>& floor_tensor, double eps) {
  const double* floor_pointer = nullptr;
  if (floor_tensor) {
    STD_TORCH_CHECK(floor_tensor->scalar_type() == ScalarType::Double && floor_tensor->dim() == 0,
                    "floor_tensor must be a 0-d float64 tensor");
    check_on_device_of(delta, *floor_tensor, "floor_tensor must be on the device of delta");
    floor_pointer = data<double>(*floor_tensor);
  }
  const double scale = sgr::reduction_scale(static_cast<int>(reduction), delta.size(0), delta.size(1));
  return {normalize, scale, floor, eps, floor_pointer};
}

// Torch's allocator hands memory back in stream order: the tensor may go while the kernels still run.
Tensor workspace_for(const Tensor& delta) {
  return torch::stable::new_empty(delta, {Workspace::doubles(delta.size(0), delta.size(1))}, ScalarType::Double);
}

Workspace workspace_in(const Tensor& memory, const Tensor& delta) {
  return {mutable_data<double>(memory), delta.size(0)};
}

std::tuple<Tensor, Tensor> sgr_loss(Tensor delta, Tensor target, bool normalize, int64_t reduction, double floor,
                                    std::optional<Tensor> floor_tensor, double eps) {
  check_pair(delta, target);
  const DeviceGuard guard(delta.get_device_index());
  if (delta.numel() == 0)
    return {torch::stable::new_zeros(delta, {}, result_type(delta)),
            torch::stable::new_zeros(delta, {3, delta.size(0)}, ScalarType::Double)};
  const auto options = make_options(delta, normalize, reduction, floor, floor_tensor, eps);
  auto loss = torch::stable::new_empty(delta, {}, result_type(delta));
  auto coef = torch::stable::new_empty(delta, {3, delta.size(0)}, ScalarType::Double);
  const auto memory = workspace_for(delta);
  dispatch(delta.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(launch_loss(rows_of<T>(delta, target), options, workspace_in(memory, delta),
                               mutable_data<double>(coef), mutable_data<Wide<T>>(loss), current_stream(delta)));
  });
  return {loss, coef};
}

Tensor sgr_loss_backward(Tensor grad_loss, Tensor delta, Tensor target, Tensor alpha, Tensor beta) {
  check_pair(delta, target);
  STD_TORCH_CHECK(grad_loss.numel() == 1 && grad_loss.scalar_type() == result_type(delta),
                  "grad_loss must be a scalar of the dtype of the loss");
  check_on_device_of(delta, grad_loss, "grad_loss must be on the device of delta");
  check_coefficients(delta, alpha, beta);
  const DeviceGuard guard(delta.get_device_index());
  auto out = torch::stable::new_empty(delta, {delta.size(0), delta.size(1)});
  if (delta.numel() == 0) return out;
  dispatch(delta.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(launch_combine(rows_of<T>(delta, target), data<double>(alpha), data<double>(beta),
                                  data<Wide<T>>(grad_loss), mutable_data<T>(out), current_stream(delta)));
  });
  return out;
}

std::tuple<Tensor, Tensor> sgr_residual(Tensor delta, Tensor target, bool normalize, int64_t reduction, double floor,
                                        std::optional<Tensor> floor_tensor, double eps) {
  check_pair(delta, target);
  const DeviceGuard guard(delta.get_device_index());
  auto v = torch::stable::new_empty(delta, {delta.size(0), delta.size(1)}, result_type(delta));
  if (delta.numel() == 0) return {torch::stable::new_zeros(delta, {}, result_type(delta)), v};
  const auto options = make_options(delta, normalize, reduction, floor, floor_tensor, eps);
  auto loss = torch::stable::new_empty(delta, {}, result_type(delta));
  const auto memory = workspace_for(delta);
  dispatch(delta.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(launch_residual(rows_of<T>(delta, target), options, workspace_in(memory, delta),
                                   mutable_data<Wide<T>>(loss), mutable_data<Wide<T>>(v), current_stream(delta)));
  });
  return {loss, v};
}

Tensor sgr_shift(Tensor x, Tensor delta, Tensor target, Tensor alpha, Tensor beta, double factor) {
  check_pair(delta, target);
  check_alike(x, delta, "x and delta");
  check_rows(x, "x");
  check_coefficients(delta, alpha, beta);
  const DeviceGuard guard(x.get_device_index());
  auto out = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  if (x.numel() == 0) return out;
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(launch_shift(rows_of<T>(delta, target), data<T>(x), x.stride(0), data<double>(alpha),
                                data<double>(beta), factor, mutable_data<T>(out), current_stream(x)));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("sgr_loss", TORCH_BOX(&sgr_loss));
  m.impl("sgr_loss_backward", TORCH_BOX(&sgr_loss_backward));
  m.impl("sgr_residual", TORCH_BOX(&sgr_residual));
  m.impl("sgr_shift", TORCH_BOX(&sgr_shift));
}
