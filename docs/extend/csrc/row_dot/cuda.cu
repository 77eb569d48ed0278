// row_dot on CUDA: a block for each row. common/rows.cuh has loads of 16 bytes, common/segments.cuh more blocks a row.
#include <torch/csrc/stable/macros.h>

#include <algorithm>

#include "common/cuda.cuh"
#include "common/reduce.cuh"
#include "common/rows.cuh"
#include "row_dot/operator.h"

namespace sgr::cuda {

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) row_dot_kernel(Rows<T> a, Rows<T> b, Wide<T>* dots) {
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    double sum[1] = {0.0};
    for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x)
      sum[0] += to_double(*a.at(row, i)) * to_double(*b.at(row, i));
    block_sum(sum);
    if (threadIdx.x == 0) dots[row] = static_cast<Wide<T>>(sum[0]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    row_dot_backward_kernel(const Wide<T>* grad, Rows<T> a, Rows<T> b, T* grad_a, T* grad_b) {
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const double factor = grad[row];
    for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x) {
      from_double(factor * to_double(*b.at(row, i)), grad_a + row * a.cols + i);
      from_double(factor * to_double(*a.at(row, i)), grad_b + row * a.cols + i);
    }
  }
}

inline unsigned blocks_for(int64_t rows) { return static_cast<unsigned>(std::min<int64_t>(rows, 0x7fffffff)); }

template <typename T>
void run_row_dot(const Device& device, const Rows<T>& a, const Rows<T>& b, Wide<T>* dots) {
  row_dot_kernel<<<blocks_for(a.rows), kMaxThreads, sizeof(Scratch), device.stream()>>>(a, b, dots);
  STD_CUDA_CHECK(cudaGetLastError());
}

template <typename T>
void run_row_dot_backward(const Device& device, const Wide<T>* grad, const Rows<T>& a, const Rows<T>& b, T* grad_a,
                          T* grad_b) {
  row_dot_backward_kernel<<<blocks_for(a.rows), kMaxThreads, 0, device.stream()>>>(grad, a, b, grad_a, grad_b);
  STD_CUDA_CHECK(cudaGetLastError());
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("row_dot", TORCH_BOX(&sgr::row_dot<sgr::cuda::Device>));
  m.impl("row_dot_backward", TORCH_BOX(&sgr::row_dot_backward<sgr::cuda::Device>));
}
