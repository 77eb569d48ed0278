// The registered CUDA operators: check tensors, take workspace from torch's allocator, launch on the current stream.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "sgr/cuda/combine.cuh"
#include "sgr/cuda/loss.cuh"
#include "sgr/cuda/residual.cuh"

namespace {

using sgr::cuda::Options;
using sgr::cuda::Rows;
using sgr::cuda::Wide;
using sgr::cuda::Workspace;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

void check_rows(const Tensor& delta, const Tensor& target) {
  STD_TORCH_CHECK(delta.dim() == 2 && target.dim() == 2, "expected rows (B, n)");
  STD_TORCH_CHECK(delta.size(0) == target.size(0) && delta.size(1) == target.size(1), "delta and target differ in shape");
  STD_TORCH_CHECK(delta.scalar_type() == target.scalar_type(), "delta and target differ in dtype");
  STD_TORCH_CHECK(delta.is_cuda() && target.is_cuda(), "delta and target must be CUDA tensors");
  STD_TORCH_CHECK(delta.get_device_index() == target.get_device_index(), "delta and target are on different devices");
  STD_TORCH_CHECK(delta.size(1) <= 1 || (delta.stride(1) == 1 && target.stride(1) == 1), "rows need unit stride");
}

void check_on_device_of(const Tensor& delta, const Tensor& other, const char* message) {
  STD_TORCH_CHECK(other.is_cuda() && other.get_device_index() == delta.get_device_index(), message);
}

template <typename T>
Rows<T> rows_of(const Tensor& delta, const Tensor& target) {
  return {static_cast<const T*>(delta.const_data_ptr()),
          static_cast<const T*>(target.const_data_ptr()),
          delta.size(0),
          delta.size(1),
          delta.stride(0),
          target.stride(0)};
}

Options make_options(const Tensor& delta, bool normalize, int64_t reduction, double floor,
                     const std::optional<Tensor>& floor_tensor, double eps) {
  const double* floor_pointer = nullptr;
  if (floor_tensor) {
    STD_TORCH_CHECK(floor_tensor->scalar_type() == ScalarType::Double && floor_tensor->dim() == 0,
                    "floor_tensor must be a 0-d float64 tensor");
    check_on_device_of(delta, *floor_tensor, "floor_tensor must be on the device of delta");
    floor_pointer = static_cast<const double*>(floor_tensor->const_data_ptr());
  }
  const double scale = sgr::reduction_scale(static_cast<int>(reduction), delta.size(0), delta.size(1));
  return {normalize, scale, floor, eps, floor_pointer};
}

// Torch's allocator hands memory back in stream order: the tensor may go while the kernels still run.
Tensor workspace_for(const Tensor& delta) {
  return torch::stable::new_empty(delta, {Workspace::doubles(delta.size(0), delta.size(1))}, ScalarType::Double);
}

Workspace workspace_in(const Tensor& memory, const Tensor& delta) {
  return {static_cast<double*>(memory.mutable_data_ptr()), delta.size(0)};
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

template <typename F>
void dispatch(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double: return f(double{});
    case ScalarType::Float: return f(float{});
    case ScalarType::BFloat16: return f(__nv_bfloat16{});
    case ScalarType::Half: return f(__half{});
    default: STD_TORCH_CHECK(false, "expected float64, float32, bfloat16 or float16");
  }
}

ScalarType result_type(const Tensor& delta) {
  return delta.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

std::tuple<Tensor, Tensor> sgr_loss(Tensor delta, Tensor target, bool normalize, int64_t reduction, double floor,
                                    std::optional<Tensor> floor_tensor, double eps) {
  check_rows(delta, target);
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
    STD_CUDA_CHECK(sgr::cuda::launch_loss(rows_of<T>(delta, target), options, workspace_in(memory, delta),
                                          static_cast<double*>(coef.mutable_data_ptr()),
                                          static_cast<Wide<T>*>(loss.mutable_data_ptr()), current_stream(delta)));
  });
  return {loss, coef};
}

Tensor sgr_loss_backward(Tensor grad_loss, Tensor delta, Tensor target, Tensor alpha, Tensor beta) {
  check_rows(delta, target);
  STD_TORCH_CHECK(grad_loss.numel() == 1 && grad_loss.scalar_type() == result_type(delta),
                  "grad_loss must be a scalar of the dtype of the loss");
  check_on_device_of(delta, grad_loss, "grad_loss must be on the device of delta");
  for (const auto& coefficient : {alpha, beta}) {
    STD_TORCH_CHECK(coefficient.scalar_type() == ScalarType::Double && coefficient.is_contiguous() &&
                        coefficient.numel() == delta.size(0),
                    "alpha and beta must be contiguous float64 tensors, one number a row");
    check_on_device_of(delta, coefficient, "alpha and beta must be on the device of delta");
  }
  const DeviceGuard guard(delta.get_device_index());
  auto out = torch::stable::new_empty(delta, {delta.size(0), delta.size(1)});
  if (delta.numel() == 0) return out;
  dispatch(delta.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(sgr::cuda::launch_combine(rows_of<T>(delta, target),
                                             static_cast<const double*>(alpha.const_data_ptr()),
                                             static_cast<const double*>(beta.const_data_ptr()),
                                             static_cast<const Wide<T>*>(grad_loss.const_data_ptr()),
                                             static_cast<T*>(out.mutable_data_ptr()), current_stream(delta)));
  });
  return out;
}

std::tuple<Tensor, Tensor> sgr_residual(Tensor delta, Tensor target, bool normalize, int64_t reduction, double floor,
                                        std::optional<Tensor> floor_tensor, double eps) {
  check_rows(delta, target);
  const DeviceGuard guard(delta.get_device_index());
  auto v = torch::stable::new_empty(delta, {delta.size(0), delta.size(1)}, result_type(delta));
  if (delta.numel() == 0) return {torch::stable::new_zeros(delta, {}, result_type(delta)), v};
  const auto options = make_options(delta, normalize, reduction, floor, floor_tensor, eps);
  auto loss = torch::stable::new_empty(delta, {}, result_type(delta));
  const auto memory = workspace_for(delta);
  dispatch(delta.scalar_type(), [&](auto type) {
    using T = decltype(type);
    STD_CUDA_CHECK(sgr::cuda::launch_residual(rows_of<T>(delta, target), options, workspace_in(memory, delta),
                                              static_cast<Wide<T>*>(loss.mutable_data_ptr()),
                                              static_cast<Wide<T>*>(v.mutable_data_ptr()), current_stream(delta)));
  });
  return {loss, v};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("sgr_loss", TORCH_BOX(&sgr_loss));
  m.impl("sgr_loss_backward", TORCH_BOX(&sgr_loss_backward));
  m.impl("sgr_residual", TORCH_BOX(&sgr_residual));
}
