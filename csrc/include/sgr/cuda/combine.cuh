// Backward: out = scale (alpha_b delta_b + beta_b target_b); reads both inputs once, writes once.
#pragma once

#include "sgr/cuda/launch.cuh"
#include "sgr/cuda/loss.cuh"
#include "sgr/cuda/sums.cuh"

namespace sgr::cuda {

template <typename T, typename Out>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    combine_kernel(Rows<T> in, const double* alpha, const double* beta, const Wide<T>* scale, Out* out) {
  const int64_t segments = segments_of(in.cols);
  const double factor = scale == nullptr ? 1.0 : *scale;
  for (int64_t item = blockIdx.x; item < in.rows * segments; item += gridDim.x) {
    const int64_t row = item / segments, column = item % segments * kSegment;
    const RowReader<T> reader{in.delta + row * in.delta_stride + column, in.target + row * in.target_stride + column};
    const int length = static_cast<int>(in.cols - column < kSegment ? in.cols - column : kSegment);
    Out* to = out + row * in.cols + column;
    const bool dead = alpha[row] == 0.0 && beta[row] == 0.0;
    const double a = factor * alpha[row], b = factor * beta[row];
    sweep<T>(align(reader, to, length), reader,
             [&](int offset, const auto& pair) { store_global(to + offset, combine_pair<Out>(pair, a, b, dead)); });
  }
}

// out: (rows, cols) contiguous. alpha, beta: (rows). scale: one number on the device, or null for 1.
template <typename T, typename Out>
cudaError_t launch_combine(const Rows<T>& in, const double* alpha, const double* beta, const Wide<T>* scale, Out* out,
                           cudaStream_t stream) {
  Launch launch{0, threads_for<T>(std::min(in.cols, kSegment))};
  SGR_CUDA_TRY(grid_for(in.rows * segments_of(in.cols), 1, &launch.blocks));
  return launch_kernel(combine_kernel<T, Out>, launch, stream, in, alpha, beta, scale, out);
}

}  // namespace sgr::cuda
