// Forward: reads both inputs once (float64 with normalize: twice) and leaves the loss and the coefficients of every row.
//
// Rows are cut into segments, one block each. The block that arrives last at the ticket of its row adds the segments up
// and finishes the row, and the last of all adds up the losses of the rows: one launch, where separate kernels for these
// few numbers would cost as much as the sweep itself on small batches. Segments depend on n alone, and sums run over
// segments and rows in order, whoever comes last.
#pragma once

#include "sgr/cuda/launch.cuh"
#include "sgr/cuda/sums.cuh"

namespace sgr::cuda {

constexpr int64_t kSegment = 8192;

SGR_HOST_DEVICE inline int64_t segments_of(int64_t cols) { return (cols + kSegment - 1) / kSegment; }

// Memory the kernels need besides inputs and outputs.
struct Workspace {
  unsigned* tickets;  // of the whole grid, then one a row; zero before a launch
  double* row_loss;   // (rows)
  double* norms;      // (rows, 2): dd, gg
  double* partial;    // (rows, segments, 3)
  double* coef;       // (3, rows)

  static int64_t doubles(int64_t rows, int64_t cols) { return ticket_doubles(rows) + rows * (6 + 3 * segments_of(cols)); }
  static int64_t ticket_doubles(int64_t rows) { return rows / 2 + 1; }
  static size_t ticket_bytes(int64_t rows) { return sizeof(unsigned) * (rows + 1); }

  Workspace(double* memory, int64_t rows) {
    tickets = reinterpret_cast<unsigned*>(memory);
    row_loss = memory + ticket_doubles(rows);
    norms = row_loss + rows;
    coef = norms + 2 * rows;
    partial = coef + 3 * rows;
  }
};

template <Sums kind, typename T, bool normalize>
__device__ inline void write_row(int64_t row, int64_t rows, double (&sums)[3], const Options& options,
                                 const Workspace& work, double* coef) {
  if constexpr (kind == Sums::kNorms) {
    work.norms[2 * row] = sums[0];
    work.norms[2 * row + 1] = sums[1];
  } else {
    if constexpr (kind == Sums::kUnitDistance) {
      sums[0] = work.norms[2 * row];
      sums[1] = work.norms[2 * row + 1];
    }
    const RowCoef result = finish_row<T, normalize>(sums, options);
    coef[row] = result.alpha;
    coef[rows + row] = result.beta;
    coef[2 * rows + row] = result.alpha_target;
    work.row_loss[row] = result.loss;
  }
}

template <Sums kind, typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    loss_kernel(Rows<T> in, Options options, Workspace work, double* coef, Wide<T>* loss) {
  const int64_t segments = segments_of(in.cols);
  for (int64_t item = blockIdx.x; item < in.rows * segments; item += gridDim.x) {
    const int64_t row = item / segments, column = item % segments * kSegment;
    const RowReader<T> reader{in.delta + row * in.delta_stride + column, in.target + row * in.target_stride + column};
    const int length = static_cast<int>(in.cols - column < kSegment ? in.cols - column : kSegment);
    double d_scale = 1.0, g_scale = 1.0, sums[3] = {0.0, 0.0, 0.0};
    if constexpr (kind == Sums::kUnitDistance) {
      d_scale = 1.0 / sqrt(work.norms[2 * row]);
      g_scale = 1.0 / sqrt(work.norms[2 * row + 1]);
    }
    sweep<T>(align(reader, reader.target, length), reader,
             [&](int, const auto& pair) { add_pair<kind>(pair, d_scale, g_scale, sums); });
    block_sum(sums);
    if (segments > 1) {
      double* partial = work.partial + 3 * segments * row;
      if (threadIdx.x == 0) {
        for (int k = 0; k < 3; ++k) partial[3 * (item % segments) + k] = sums[k];
      }
      if (!last_to_arrive(work.tickets + 1 + row, static_cast<unsigned>(segments))) continue;
      for (int k = 0; k < 3; ++k) sums[k] = 0.0;
      for (int64_t segment = threadIdx.x; segment < segments; segment += blockDim.x)
        for (int k = 0; k < 3; ++k) sums[k] += load_fresh(partial + 3 * segment + k);
      block_sum(sums);
    }
    if (threadIdx.x == 0) write_row<kind, T, normalize>(row, in.rows, sums, options, work, coef);
  }
  if constexpr (kind != Sums::kNorms) sum_row_losses(work.row_loss, in.rows, work.tickets, gridDim.x, loss);
}

template <Sums kind, bool normalize, typename T>
cudaError_t launch_loss_sweep(const Rows<T>& in, const Options& options, const Workspace& work, double* coef,
                              Wide<T>* loss, cudaStream_t stream) {
  Launch launch{0, threads_for<T>(std::min(in.cols, kSegment))};
  SGR_CUDA_TRY(grid_for(in.rows * segments_of(in.cols), 1, &launch.blocks));
  SGR_CUDA_TRY(cudaMemsetAsync(work.tickets, 0, Workspace::ticket_bytes(in.rows), stream));
  return launch_kernel(loss_kernel<kind, T, normalize>, launch, stream, in, options, work, coef, loss);
}

// loss: one number. coef: (3, rows), see row_math.h. Neither rows nor cols may be 0.
template <typename T>
cudaError_t launch_loss(const Rows<T>& in, const Options& options, const Workspace& work, double* coef, Wide<T>* loss,
                        cudaStream_t stream) {
  if (!options.normalize) return launch_loss_sweep<Sums::kDistance, false>(in, options, work, coef, loss, stream);
  constexpr Sums first = kFirstSums<T, true>;
  SGR_CUDA_TRY((launch_loss_sweep<first, true>(in, options, work, coef, loss, stream)));
  if constexpr (first == Sums::kNorms)
    SGR_CUDA_TRY((launch_loss_sweep<Sums::kUnitDistance, true>(in, options, work, coef, loss, stream)));
  return cudaSuccess;
}

}  // namespace sgr::cuda
