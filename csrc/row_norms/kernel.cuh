// Euclidean norm of every row: reads the rows once. Segments and tickets as in sgr_loss.
#pragma once

#include <cmath>

#include "common/segments.cuh"

namespace sgr::cuda {

// Memory for sums of segments, and for tickets behind them. Rows of one segment need none.
inline int64_t row_norms_doubles(int64_t rows, int64_t cols) {
  return segments_of(cols) > 1 ? rows * segments_of(cols) + ceil_div(rows, 2) : 0;
}

// partial: (rows, segments). tickets: (rows), zero before the launch. norms: (rows).
template <typename T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    row_norms_kernel(Rows<T> in, double* partial, unsigned* tickets, double* norms) {
  const int64_t segments = segments_of(in.cols);
  for_each_segment(in.rows, in.cols, [&](int64_t row, int64_t column, int length) {
    const RowReader<T, 1> reader{{in.at(row, column)}};
    double sum[1] = {0.0};
    sweep<T>(align(length, reader), reader, [&](int, const auto& packs) {
#pragma unroll
      for (const T element : packs.row[0].value) {
        const double x = to_double(element);
        sum[0] += x * x;
      }
    });
    if (!row_sum(sum, in.cols, column, partial + segments * row, tickets + row)) return;
    if (threadIdx.x == 0) norms[row] = sqrt(sum[0]);
  });
}

// memory: (row_norms_doubles(rows, cols)). norms: (rows). Neither rows nor cols may be 0.
template <typename T>
cudaError_t launch_row_norms(const Rows<T>& in, double* memory, double* norms, cudaStream_t stream) {
  const int64_t segments = segments_of(in.cols);
  auto* tickets = reinterpret_cast<unsigned*>(memory + in.rows * segments);
  if (segments > 1) SGR_CUDA_TRY(cudaMemsetAsync(tickets, 0, sizeof(unsigned) * in.rows, stream));
  return launch_segments<T>(row_norms_kernel<T>, in.rows, in.cols, stream, in, memory, tickets, norms);
}

}  // namespace sgr::cuda
