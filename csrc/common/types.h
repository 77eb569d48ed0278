// Types that CPU and CUDA kernels share; free of torch.
#pragma once

#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define SGR_HOST_DEVICE __host__ __device__
#else
#define SGR_HOST_DEVICE
#endif

namespace sgr {

// Element type of losses, residuals and sums: float64 for float64, float32 for everything else.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

SGR_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A matrix (rows, cols) with unit stride along the rows, which are `stride` elements apart.
template <typename T>
struct Rows {
  const T* data;
  int64_t rows, cols, stride;

  SGR_HOST_DEVICE const T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

// `count` matrices of the same shape.
template <typename T, int count>
struct RowSet {
  Rows<T> matrix[count];

  SGR_HOST_DEVICE const Rows<T>& operator[](int i) const { return matrix[i]; }
  SGR_HOST_DEVICE int64_t rows() const { return matrix[0].rows; }
  SGR_HOST_DEVICE int64_t cols() const { return matrix[0].cols; }

  RowSet slice(int64_t first, int64_t last) const {
    RowSet some = *this;
    for (auto& m : some.matrix) m = {m.at(first, 0), last - first, m.cols, m.stride};
    return some;
  }
};

// A number that is known at the launch or, if the pointer is not null, lies in memory of the device.
template <typename T>
struct Number {
  double value;
  const T* pointer;

  SGR_HOST_DEVICE double get() const { return pointer == nullptr ? value : *pointer; }
};

}  // namespace sgr
