// Rows cut into segments, the unit of work of a block, at places that depend on the length of a row alone.
#pragma once

#include "common/launch.cuh"
#include "common/reduce.cuh"

namespace sgr::cuda {

constexpr int64_t kSegment = 8192;

SGR_HOST_DEVICE inline int64_t segments_of(int64_t cols) { return ceil_div(cols, kSegment); }

// use(row, first column, length) for the segments of all rows that fall to this block.
template <typename Use>
__device__ __forceinline__ void for_each_segment(int64_t rows, int64_t cols, const Use& use) {
  const int64_t segments = segments_of(cols);
  for (int64_t item = blockIdx.x; item < rows * segments; item += gridDim.x) {
    const int64_t row = item / segments, column = item % segments * kSegment;
    use(row, column, static_cast<int>(cols - column < kSegment ? cols - column : kSegment));
  }
}

// From the sums of the threads to those of the row that the segment at `column` belongs to. The block that arrives last
// at the ticket adds the segments up, in their order; it gets true, and sums[] of the whole row in all of its threads.
// partial: (segments, count). ticket: one number, zero before the launch. Neither is used where a row is one segment.
template <int count>
__device__ inline bool row_sum(double (&sums)[count], int64_t cols, int64_t column, double* partial, unsigned* ticket) {
  const int64_t segments = segments_of(cols);
  block_sum(sums);
  if (segments == 1) return true;
  if (threadIdx.x == 0) {
    for (int k = 0; k < count; ++k) partial[count * (column / kSegment) + k] = sums[k];
  }
  if (!last_to_arrive(ticket, static_cast<unsigned>(segments))) return false;
  for (int k = 0; k < count; ++k) sums[k] = 0.0;
  for (int64_t segment = threadIdx.x; segment < segments; segment += blockDim.x)
    for (int k = 0; k < count; ++k) sums[k] += load_fresh(partial + count * segment + k);
  block_sum(sums);
  return true;
}

// Launches a kernel that works through the segments of rows of T. Neither rows nor cols may be 0.
template <typename T, typename Kernel, typename... Arguments>
cudaError_t launch_segments(Kernel kernel, int64_t rows, int64_t cols, cudaStream_t stream,
                            const Arguments&... arguments) {
  Launch launch{0, threads_for<T>(std::min(cols, kSegment))};
  SGR_CUDA_TRY(grid_for(rows * segments_of(cols), 1, &launch.blocks));
  return launch_kernel(kernel, launch, stream, arguments...);
}

}  // namespace sgr::cuda
