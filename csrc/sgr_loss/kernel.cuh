// The loss with its coefficients, and the gradient that they make. The loss reads both inputs once (float64 with
// normalize: twice), the gradient once, and writes once.
//
// Rows are cut into segments, one block each. The block of the loss that arrives last at the ticket of its row adds the
// segments up and finishes the row, and the last of all adds up the losses of the rows: one launch, where separate
// kernels for these few numbers would cost as much as the sweep itself on small batches. Sums run over segments and
// rows in order, whoever comes last.
#pragma once

#include "common/segments.cuh"
#include "common/sums.cuh"

namespace sgr::cuda {

// Memory the kernels need besides inputs and outputs.
struct Workspace {
  unsigned* tickets;  // (1 + rows): of the whole grid, then one a row; zero before a launch
  double* row_loss;   // (rows)
  double* norms;      // (rows, 2): dd, gg
  double* partial;    // (rows, segments, 3)
  double* coef;       // (3, rows)

  static int64_t doubles(int64_t rows, int64_t cols) {
    return ticket_doubles(rows) + rows * (6 + 3 * segments_of(cols));
  }
  static int64_t ticket_doubles(int64_t rows) { return rows / 2 + 1; }
  static size_t ticket_bytes(int64_t rows) { return sizeof(unsigned) * (rows + 1); }

  // memory: (doubles(rows, cols))
  Workspace(double* memory, int64_t rows) {
    tickets = reinterpret_cast<unsigned*>(memory);
    row_loss = memory + ticket_doubles(rows);
    norms = row_loss + rows;
    coef = norms + 2 * rows;
    partial = coef + 3 * rows;
  }
};

// coef: (3, rows).
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

// coef: (3, rows). loss: one number.
template <Sums kind, typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_loss_kernel(RowPair<T> in, Options options, Workspace work, double* coef, Wide<T>* loss) {
  const int64_t segments = segments_of(in.cols());
  for_each_segment(in.rows(), in.cols(), [&](int64_t row, int64_t column, int length) {
    const RowReader<T, 2> reader{{in.delta.at(row, column), in.target.at(row, column)}};
    double d_scale = 1.0, g_scale = 1.0, sums[3] = {0.0, 0.0, 0.0};
    if constexpr (kind == Sums::kUnitDistance) {
      d_scale = 1.0 / sqrt(work.norms[2 * row]);
      g_scale = 1.0 / sqrt(work.norms[2 * row + 1]);
    }
    sweep<T>(align(length, reader), reader,
             [&](int, const auto& pair) { add_pair<kind>(pair, d_scale, g_scale, sums); });
    if (!row_sum(sums, in.cols(), column, work.partial + 3 * segments * row, work.tickets + 1 + row)) return;
    if (threadIdx.x == 0) write_row<kind, T, normalize>(row, in.rows(), sums, options, work, coef);
  });
  if constexpr (kind != Sums::kNorms) sum_row_losses(work.row_loss, in.rows(), work.tickets, gridDim.x, loss);
}

template <Sums kind, bool normalize, typename T>
cudaError_t launch_sgr_loss_sweep(const RowPair<T>& in, const Options& options, const Workspace& work, double* coef,
                                  Wide<T>* loss, cudaStream_t stream) {
  SGR_CUDA_TRY(cudaMemsetAsync(work.tickets, 0, Workspace::ticket_bytes(in.rows()), stream));
  return launch_segments<T>(sgr_loss_kernel<kind, T, normalize>, in.rows(), in.cols(), stream, in, options, work, coef,
                            loss);
}

// coef: (3, rows), see row_math.h. loss: one number. Neither rows nor cols may be 0.
template <typename T>
cudaError_t launch_sgr_loss(const RowPair<T>& in, const Options& options, const Workspace& work, double* coef,
                            Wide<T>* loss, cudaStream_t stream) {
  if (!options.normalize) return launch_sgr_loss_sweep<Sums::kDistance, false>(in, options, work, coef, loss, stream);
  constexpr Sums first = kFirstSums<T, true>;
  SGR_CUDA_TRY((launch_sgr_loss_sweep<first, true>(in, options, work, coef, loss, stream)));
  if constexpr (first == Sums::kNorms)
    SGR_CUDA_TRY((launch_sgr_loss_sweep<Sums::kUnitDistance, true>(in, options, work, coef, loss, stream)));
  return cudaSuccess;
}

// alpha, beta: (rows). scale: one number, or null for 1. out: (rows, cols) contiguous.
template <typename T, typename Out>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_loss_backward_kernel(RowPair<T> in, const double* alpha, const double* beta, const Wide<T>* scale, Out* out) {
  const double factor = scale == nullptr ? 1.0 : *scale;
  for_each_segment(in.rows(), in.cols(), [&](int64_t row, int64_t column, int length) {
    const RowReader<T, 2> reader{{in.delta.at(row, column), in.target.at(row, column)}};
    Out* to = out + row * in.cols() + column;
    const bool dead = alpha[row] == 0.0 && beta[row] == 0.0;
    const double a = factor * alpha[row], b = factor * beta[row];
    sweep<T>(align(length, reader, to), reader,
             [&](int offset, const auto& pair) { store_global(to + offset, combine_pair<Out>(pair, a, b, dead)); });
  });
}

// alpha, beta: (rows). scale: one number on the device, or null for 1. out: (rows, cols) contiguous. Neither rows nor
// cols may be 0.
template <typename T, typename Out>
cudaError_t launch_sgr_loss_backward(const RowPair<T>& in, const double* alpha, const double* beta,
                                     const Wide<T>* scale, Out* out, cudaStream_t stream) {
  const auto kernel = sgr_loss_backward_kernel<T, Out>;
  return launch_segments<T>(kernel, in.rows(), in.cols(), stream, in, alpha, beta, scale, out);
}

}  // namespace sgr::cuda
