// What the registered operators share: result types, data pointers, dtype dispatch, checks.
//
// The operator.h of a folder is written once, for every Device: that of cpu.h or that of cuda.cuh. A device says where
// tensors must be and what half types are called there. operator.h calls functions run_...(device, ...), which see
// pointers in the place of tensors: for the CPU they are in cpu.cpp or kernel.h, for CUDA in kernel.cuh.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>

#include "common/errors.h"
#include "common/types.h"

namespace sgr {

using torch::headeronly::ScalarType;
using torch::stable::new_empty;
using torch::stable::new_zeros;
using torch::stable::Tensor;

// The dtype of Wide<T>.
inline ScalarType result_type(const Tensor& like) {
  return like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
Rows<T> rows_of(const Tensor& tensor) {
  return {data<T>(tensor), tensor.size(0), tensor.size(1), tensor.stride(0)};
}

template <typename T, typename... Tensors>
RowSet<T, sizeof...(Tensors)> row_set(const Tensors&... tensors) {
  return {{rows_of<T>(tensors)...}};
}

// f(T{}) for the element type of a floating-point tensor.
template <class Device, typename F>
void dispatch(const Tensor& tensor, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return f(double{});
    case ScalarType::Float: return f(float{});
    case ScalarType::BFloat16: return f(typename Device::BFloat16{});
    case ScalarType::Half: return f(typename Device::Float16{});
    default: require(false, "expected float64, float32, bfloat16 or float16");
  }
}

// `like` is another argument, known to be in its place, or the tensor itself.
template <class Device>
void check_place(const Tensor& tensor, const Tensor& like, const char* what) {
  require(Device::holds(tensor, like), what, " must be on ", Device::kName,
          ", and on the device of the other arguments");
}

inline void check_same_shape(const Tensor& a, const Tensor& b, const char* what) {
  require(a.dim() == b.dim(), what, " differ in shape");
  for (int64_t i = 0; i < a.dim(); ++i) require(a.size(i) == b.size(i), what, " differ in shape");
}

// Two tensors of one shape and dtype on one device.
template <class Device>
void check_alike(const Tensor& a, const Tensor& b, const char* what) {
  check_place<Device>(a, a, what);
  check_place<Device>(b, a, what);
  require(a.scalar_type() == b.scalar_type(), what, " differ in dtype");
  check_same_shape(a, b, what);
}

// Contiguous (B), one number for each of the rows.
template <class Device>
void check_per_row(const Tensor& numbers, const Tensor& rows, ScalarType type, const char* what) {
  require(numbers.dim() == 1 && numbers.size(0) == rows.size(0) && numbers.is_contiguous(), what,
          ": expected a contiguous tensor with one number a row");
  require(numbers.scalar_type() == type, what, ": wrong dtype");
  check_place<Device>(numbers, rows, what);
}

// Rows (B, n) with unit stride along a row.
inline void check_rows(const Tensor& rows, const char* what) {
  require(rows.dim() == 2, what, ": expected rows (B, n)");
  require(rows.size(1) <= 1 || rows.stride(1) == 1, what, ": rows need unit stride");
}

template <class Device>
void check_row_pair(const Tensor& a, const Tensor& b, const char* what) {
  check_alike<Device>(a, b, what);
  check_rows(a, what);
  check_rows(b, what);
}

}  // namespace sgr
