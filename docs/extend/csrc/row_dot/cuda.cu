// row_dot and row_dot_backward on CUDA.
#include "common/cuda.cuh"
#include "common/segments.cuh"
#include "row_dot/operator.h"

namespace sgr::cuda {

// out: (rows).
template <typename T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    row_dot_kernel(RowSet<T, 2> in, RowSums work, Wide<T>* out) {
  for_each_segment(in, [&](int64_t row, int64_t column, int length, const auto& reader) {
    double sum[1] = {0.0};
    sweep<T>(align(length, reader), reader, [&](int, const auto& pair) {
#pragma unroll
      for (int k = 0; k < pair.kWidth; ++k)
        sum[0] += to_double(pair.row[0].value[k]) * to_double(pair.row[1].value[k]);
    });
    if (!row_sum(sum, row, column, in.cols(), work)) return;
    if (threadIdx.x == 0) out[row] = static_cast<Wide<T>>(sum[0]);
  });
}

// factor x, rounded once.
template <typename T, int width>
__device__ inline Pack<T, width> scale(const Pack<T, width>& x, double factor) {
  Pack<T, width> out;
#pragma unroll
  for (int k = 0; k < width; ++k) from_double(factor * to_double(x.value[k]), &out.value[k]);
  return out;
}

// grad: (rows). grad_a, grad_b: (rows, cols) contiguous.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    row_dot_backward_kernel(RowSet<T, 2> in, const Wide<T>* grad, T* grad_a, T* grad_b) {
  for_each_segment(in, [&](int64_t row, int64_t column, int length, const auto& reader) {
    const int64_t at = row * in.cols() + column;
    T *to_a = grad_a + at, *to_b = grad_b + at;
    const double factor = grad[row];
    sweep<T>(align(length, reader, to_a, to_b), reader, [&](int offset, const auto& pair) {
      store_global(to_a + offset, scale(pair.row[1], factor));
      store_global(to_b + offset, scale(pair.row[0], factor));
    });
  });
}

template <typename T>
void run_row_dot(Device& device, const RowSet<T, 2>& in, Wide<T>* out) {
  const RowSums work(device.workspace(RowSums::doubles(in.rows(), in.cols(), 1)), in.rows());
  work.clear_tickets(in.rows(), device.stream());
  launch_segments(row_dot_kernel<T>, device.stream(), in, work, out);
}

template <typename T>
void run_row_dot_backward(Device& device, const RowSet<T, 2>& in, const Wide<T>* grad, T* grad_a, T* grad_b) {
  launch_segments(row_dot_backward_kernel<T>, device.stream(), in, grad, grad_a, grad_b);
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("row_dot", SGR_BOX(&sgr::row_dot<sgr::cuda::Device>));
  m.impl("row_dot_backward", SGR_BOX(&sgr::row_dot_backward<sgr::cuda::Device>));
}
