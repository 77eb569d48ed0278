// What the C interfaces of the operators share.
#pragma once

#include <exception>
#include <stdexcept>
#include <vector>

#include "common/rows.cuh"

using namespace sgr;
using namespace sgr::cuda;

struct Matrix {
  int dtype;
  const void* data;
  int64_t rows, cols, stride;
};

template <typename T>
static Rows<T> rows_of(const Matrix& in) {
  return {static_cast<const T*>(in.data), in.rows, in.cols, in.stride};
}

template <typename T, typename... Matrices>
static RowSet<T, sizeof...(Matrices)> row_set(const Matrices&... in) {
  return {{rows_of<T>(in)...}};
}

// In the place of a CUDA device: memory of exactly the size asked for, full of NaN, between bytes that must not change.
class TestDevice {
 public:
  cudaStream_t stream() const { return nullptr; }
  double* workspace(int64_t doubles) {
    const size_t bytes = sizeof(double) * doubles;
    memory_.assign(bytes + 2 * kGuard, kUntouched);
    std::memset(&memory_[kGuard], 0xFF, bytes);
    return reinterpret_cast<double*>(&memory_[kGuard]);
  }
  void check() const {
    for (size_t i = 0; i < memory_.size(); i = i + 1 == kGuard ? memory_.size() - kGuard : i + 1)
      if (memory_[i] != kUntouched) throw std::runtime_error("write outside of the workspace");
  }

 private:
  static constexpr size_t kGuard = 4096;
  static constexpr unsigned char kUntouched = 0xA5;
  std::vector<unsigned char> memory_;
};

template <typename F>
static auto dispatch(int dtype, const F& f) {
  switch (dtype) {
    case 0: return f(double{});
    case 1: return f(float{});
    case 2: return f(__nv_bfloat16{});
    default: return f(__half{});
  }
}

// f(device, type); 0, or 1 with the failure in the machine.
template <typename F>
static int run(int dtype, const F& f) {
  cuda_shim::failure.clear();
  try {
    TestDevice device;
    dispatch(dtype, [&](auto type) { f(device, type); });
    device.check();
    return 0;
  } catch (const std::exception& error) {
    cuda_shim::fail(error.what());
    return 1;
  }
}
