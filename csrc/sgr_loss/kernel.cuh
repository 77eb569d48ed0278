// The loss with its coefficients. Reads both inputs once (float64 with normalize: twice).
//
// Rows are cut into segments, one block each. The block that arrives last at the ticket of its row adds the segments up
// and finishes the row, and the last of all adds up the losses of the rows: one launch, where separate kernels for
// these few numbers would cost as much as the sweep itself on small batches. Sums run over segments and rows in order,
// whoever comes last.
#pragma once

#include <cmath>

#include "common/segments.cuh"
#include "sgr_loss/row_math.h"

namespace sgr::cuda {

// What a sweep over a row adds up: dd = sum delta^2, gg = sum target^2 and a third sum.
enum class Sums {
  kProducts,      // dd, gg, sum delta target
  kNorms,         // dd, gg, 0
  kUnitDistance,  // 0, 0, sum (delta / |delta| - target / |target|)^2
  kDistance       // dd, 0, sum (delta - target)^2
};

// The first (or only) sweep.
template <typename T, bool normalize>
constexpr Sums kFirstSums = !normalize ? Sums::kDistance : kUnitDistance<T> ? Sums::kNorms : Sums::kProducts;

// The rows are delta and target.
template <Sums kind, typename T, int width>
__device__ inline void add_pair(const Packs<T, width, 2>& pair, double d_scale, double g_scale, double (&sums)[3]) {
#pragma unroll
  for (int k = 0; k < width; ++k) {
    const double d = to_double(pair.row[0].value[k]), g = to_double(pair.row[1].value[k]);
    if constexpr (kind != Sums::kUnitDistance) sums[0] += d * d;
    if constexpr (kind == Sums::kProducts || kind == Sums::kNorms) sums[1] += g * g;
    if constexpr (kind == Sums::kProducts) sums[2] += d * g;
    if constexpr (kind == Sums::kDistance) sums[2] += (d - g) * (d - g);
    if constexpr (kind == Sums::kUnitDistance) {
      const double difference = d_scale * d - g_scale * g;
      sums[2] += difference * difference;
    }
  }
}

// Memory the kernels need besides inputs and outputs.
struct Workspace {
  double* row_loss;  // (rows)
  double* coef;      // (kCoefRows, rows)
  RowSums sums;

  // memory: (doubles(rows, segments))
  Workspace(double* memory, int64_t rows)
      : row_loss(memory), coef(memory + rows), sums(memory + (1 + kCoefRows) * rows, rows) {}

  static int64_t doubles(int64_t rows, int64_t segments) {
    return (1 + kCoefRows) * rows + RowSums::doubles(rows, segments, 3);
  }
};

// coef: (kCoefRows, rows). Between the two sweeps of float64, dd and gg lie in the place of alpha and beta.
template <Sums kind, typename T, bool normalize>
__device__ inline void write_row(int64_t row, int64_t rows, double (&sums)[3], const Options& options,
                                 const Workspace& work, double* coef) {
  if constexpr (kind == Sums::kNorms) {
    coef[row] = sums[0];
    coef[rows + row] = sums[1];
  } else {
    if constexpr (kind == Sums::kUnitDistance) {
      sums[0] = coef[row];
      sums[1] = coef[rows + row];
    }
    const RowCoef result = finish_row<T>(sums, normalize, options);
    write_coefficients(result, row, rows, coef);
    work.row_loss[row] = result.loss;
  }
}

// coef: (kCoefRows, rows). loss: one number.
template <Sums kind, typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_loss_kernel(RowSet<T, 2> in, Options options, Workspace work, double* coef, Wide<T>* loss) {
  for_each_segment(in, [&](int64_t row, int64_t column, int length, const auto& reader) {
    double d_scale = 1.0, g_scale = 1.0, sums[3] = {0.0, 0.0, 0.0};
    if constexpr (kind == Sums::kUnitDistance) {
      d_scale = 1.0 / sqrt(coef[row]);
      g_scale = 1.0 / sqrt(coef[in.rows() + row]);
    }
    sweep<T>(align(length, reader), reader,
             [&](int, const auto& pair) { add_pair<kind>(pair, d_scale, g_scale, sums); });
    if (!row_sum(sums, row, column / kSegment, segments_of(in.cols()), work.sums)) return;
    if (threadIdx.x == 0) write_row<kind, T, normalize>(row, in.rows(), sums, options, work, coef);
  });
  if constexpr (kind != Sums::kNorms) {
    if (last_to_arrive(work.sums.tickets, gridDim.x)) sum_numbers(work.row_loss, in.rows(), loss);
  }
}

// coef: (kCoefRows, rows), see row_math.h. loss: one number. Neither rows nor cols may be 0.
template <typename T>
void launch_sgr_loss(const RowSet<T, 2>& in, const Options& options, const Workspace& work, double* coef,
                     Wide<T>* loss, cudaStream_t stream) {
  const auto launch = [&](auto kernel) {
    work.sums.clear_tickets(in.rows(), stream);
    launch_segments(kernel, stream, in, options, work, coef, loss);
  };
  if (!options.normalize) return launch(sgr_loss_kernel<Sums::kDistance, T, false>);
  launch(sgr_loss_kernel<kFirstSums<T, true>, T, true>);
  if constexpr (kFirstSums<T, true> == Sums::kNorms) launch(sgr_loss_kernel<Sums::kUnitDistance, T, true>);
}

template <class Device, typename T>
void run_sgr_loss(Device& device, const RowSet<T, 2>& in, const Options& options, double* coef, Wide<T>* loss) {
  const Workspace work(device.workspace(Workspace::doubles(in.rows(), segments_of(in.cols()))), in.rows());
  launch_sgr_loss(in, options, work, coef, loss, device.stream());
}

}  // namespace sgr::cuda
