// Rows cut into segments, the unit of work of a block, at places that depend on the length of a row alone.
#pragma once

#include "common/launch.cuh"

namespace sgr::cuda {

constexpr int64_t kSegment = 8192;

SGR_HOST_DEVICE inline int64_t segments_of(int64_t cols) { return ceil_div(cols, kSegment); }

// use(row, first column, length, reader) for the segments of all rows that fall to this block.
template <typename T, int count, typename Use>
__device__ __forceinline__ void for_each_segment(const RowSet<T, count>& in, const Use& use) {
  const int64_t cols = in.cols(), segments = segments_of(cols);
  for (int64_t item = blockIdx.x; item < in.rows() * segments; item += gridDim.x) {
    const int64_t row = item / segments, column = item % segments * kSegment;
    const int length = static_cast<int>(cols - column < kSegment ? cols - column : kSegment);
    use(row, column, length, reader_at(in, row, column));
  }
}

// Memory of a kernel that adds up rows.
struct RowSums {
  unsigned* tickets;  // (1 + rows), zero before a launch: of the whole grid, then one a row
  double* partial;    // (rows, segments, number of sums)

  RowSums(double* memory, int64_t rows)
      : tickets(reinterpret_cast<unsigned*>(memory)), partial(memory + rows / 2 + 1) {}  // two tickets in a double

  static int64_t doubles(int64_t rows, int64_t segments, int count) { return rows / 2 + 1 + rows * segments * count; }
  void clear_tickets(int64_t rows, cudaStream_t stream) const {
    check(cudaMemsetAsync(tickets, 0, sizeof(unsigned) * (1 + rows), stream));
  }
};

// From the sums of the threads over one of the `segments` of a row to those of the row. The block that arrives last at
// the ticket of the row adds the segments up, in their order; it gets true, and sums[] of the whole row in all of its
// threads. Where a row is one segment the memory is not used.
template <int count>
__device__ inline bool row_sum(double (&sums)[count], int64_t row, int64_t segment, int64_t segments,
                               const RowSums& work) {
  block_sum(sums);
  if (segments == 1) return true;
  double* partial = work.partial + row * segments * count;
  if (threadIdx.x == 0) {
    for (int k = 0; k < count; ++k) partial[count * segment + k] = sums[k];
  }
  if (!last_to_arrive(work.tickets + 1 + row, static_cast<unsigned>(segments))) return false;
  for (int k = 0; k < count; ++k) sums[k] = 0.0;
  for (int64_t i = threadIdx.x; i < segments; i += blockDim.x)
    for (int k = 0; k < count; ++k) sums[k] += load_fresh(partial + count * i + k);
  block_sum(sums);
  return true;
}

// Launches kernel(in, arguments...), which works through segments. Neither rows nor cols may be 0.
template <typename Kernel, typename T, int count, typename... Arguments>
void launch_segments(Kernel kernel, cudaStream_t stream, const RowSet<T, count>& in, const Arguments&... arguments) {
  const Launch launch{grid_for(in.rows() * segments_of(in.cols())), threads_for<T>(std::min(in.cols(), kSegment))};
  launch_kernel(kernel, launch, stream, in, arguments...);
}

}  // namespace sgr::cuda
