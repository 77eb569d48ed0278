// x + factor (alpha_b delta_b + beta_b target_b): reads the three inputs once, writes once.
#pragma once

#include "sgr/cuda/launch.cuh"
#include "sgr/cuda/loss.cuh"
#include "sgr/cuda/sums.cuh"

namespace sgr::cuda {

template <typename T, int width>
struct ShiftInput {
  Pair<T, width> pair;
  Pack<T, width> x;
};

template <typename T>
struct ShiftReader {
  RowReader<T> pair;
  const T* x;

  template <int width>
  __device__ ShiftInput<T, width> read(int offset) const {
    return {pair.template read<width>(offset), load_global<T, width>(x + offset)};
  }
};

template <typename T>
__device__ inline Span align(const ShiftReader<T>& in, const T* out, int length) {
  const Span span = align(in.pair, out, length);
  const bool together = reinterpret_cast<uintptr_t>(in.x + span.head) % 16 == 0;
  return together ? span : Span{length, length, 0};
}

// Rounded once. A dead row is x to the last bit, even where delta or target hold Inf.
template <typename T, int width>
__device__ inline Pack<T, width> shift_pack(const ShiftInput<T, width>& in, double alpha, double beta, bool dead) {
  const auto v = combine_pair<double>(in.pair, alpha, beta, dead);
  Pack<T, width> out = in.x;
#pragma unroll
  for (int k = 0; k < width; ++k)
    if (!dead) from_double(to_double(in.x.value[k]) + v.value[k], &out.value[k]);
  return out;
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    shift_kernel(Rows<T> in, const T* x, int64_t x_stride, const double* alpha, const double* beta, double factor,
                 T* out) {
  const int64_t segments = segments_of(in.cols);
  for (int64_t item = blockIdx.x; item < in.rows * segments; item += gridDim.x) {
    const int64_t row = item / segments, column = item % segments * kSegment;
    const RowReader<T> pair{in.delta + row * in.delta_stride + column, in.target + row * in.target_stride + column};
    const ShiftReader<T> reader{pair, x + row * x_stride + column};
    const int length = static_cast<int>(in.cols - column < kSegment ? in.cols - column : kSegment);
    T* to = out + row * in.cols + column;
    const bool dead = alpha[row] == 0.0 && beta[row] == 0.0;
    const double a = factor * alpha[row], b = factor * beta[row];
    sweep<T>(align(reader, to, length), reader,
             [&](int offset, const auto& read) { store_global(to + offset, shift_pack(read, a, b, dead)); });
  }
}

// x: rows of the shape of in, with a stride of their own. alpha, beta: (rows). out: (rows, cols) contiguous.
template <typename T>
cudaError_t launch_shift(const Rows<T>& in, const T* x, int64_t x_stride, const double* alpha, const double* beta,
                         double factor, T* out, cudaStream_t stream) {
  Launch launch{0, threads_for<T>(std::min(in.cols, kSegment))};
  SGR_CUDA_TRY(grid_for(in.rows * segments_of(in.cols), 1, &launch.blocks));
  return launch_kernel(shift_kernel<T>, launch, stream, in, x, x_stride, alpha, beta, factor, out);
}

}  // namespace sgr::cuda
