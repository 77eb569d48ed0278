// x + factor (alpha_b delta_b + beta_b target_b): reads the three inputs once, writes once.
#pragma once

#include "common/segments.cuh"
#include "common/sums.cuh"

namespace sgr::cuda {

// The rows are delta, target and x. Rounded once. A dead row is x to the last bit, even where delta or target hold Inf.
template <typename T, int width>
__device__ inline Pack<T, width> shift_pack(const Packs<T, width, 3>& in, double alpha, double beta, bool dead) {
  const auto v = combine_pair<double>(in, alpha, beta, dead);
  Pack<T, width> out = in.row[2];
#pragma unroll
  for (int k = 0; k < width; ++k)
    if (!dead) from_double(to_double(in.row[2].value[k]) + v.value[k], &out.value[k]);
  return out;
}

// alpha, beta: (rows). out: (rows, cols) contiguous.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_shift_kernel(RowPair<T> in, Rows<T> x, const double* alpha, const double* beta, double factor, T* out) {
  for_each_segment(in.rows(), in.cols(), [&](int64_t row, int64_t column, int length) {
    const RowReader<T, 3> reader{{in.delta.at(row, column), in.target.at(row, column), x.at(row, column)}};
    T* to = out + row * in.cols() + column;
    const bool dead = alpha[row] == 0.0 && beta[row] == 0.0;
    const double a = factor * alpha[row], b = factor * beta[row];
    sweep<T>(align(length, reader, to), reader,
             [&](int offset, const auto& read) { store_global(to + offset, shift_pack(read, a, b, dead)); });
  });
}

// alpha, beta: (rows). out: (rows, cols) contiguous. Neither rows nor cols may be 0.
template <typename T>
cudaError_t launch_sgr_shift(const RowPair<T>& in, const Rows<T>& x, const double* alpha, const double* beta,
                             double factor, T* out, cudaStream_t stream) {
  return launch_segments<T>(sgr_shift_kernel<T>, in.rows(), in.cols(), stream, in, x, alpha, beta, factor, out);
}

}  // namespace sgr::cuda
