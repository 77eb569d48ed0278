// Euclidean norm of every row: reads the rows once. Segments and tickets as in sgr_loss.
#pragma once

#include <cmath>

#include "common/segments.cuh"

namespace sgr::cuda {

// norms: (rows).
template <typename T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    row_norms_kernel(RowSet<T, 1> in, RowSums work, double* norms) {
  for_each_segment(in, [&](int64_t row, int64_t column, int length, const auto& reader) {
    double sum[1] = {0.0};
    sweep<T>(align(length, reader), reader, [&](int, const auto& packs) {
#pragma unroll
      for (const T element : packs.row[0].value) {
        const double x = to_double(element);
        sum[0] += x * x;
      }
    });
    if (!row_sum(sum, row, column / kSegment, segments_of(in.cols()), work)) return;
    if (threadIdx.x == 0) norms[row] = sqrt(sum[0]);
  });
}

// norms: (rows). Neither rows nor cols may be 0.
template <class Device, typename T>
void run_row_norms(Device& device, const RowSet<T, 1>& in, double* norms) {
  const RowSums work(device.workspace(RowSums::doubles(in.rows(), segments_of(in.cols()), 1)), in.rows());
  if (segments_of(in.cols()) > 1) work.clear_tickets(in.rows(), device.stream());
  launch_segments(row_norms_kernel<T>, device.stream(), in, work, norms);
}

}  // namespace sgr::cuda
