// Loss and v in one kernel that reads the inputs from memory once: a row stays in the registers of a block
// (short_rows.cuh) or in its shared memory, or the L2 cache keeps it (turns.cuh). Float64 rows that do not fit into one block take the kernels of sgr_loss and sgr_shift
// where they are normalised: their sums take two sweeps.
//
// Memory is kept busy by copies that need no registers: all of a row is on its way before its first element is used,
// and while a row is written, what has been used makes place for the next one. What is left is the time between the
// last element that arrives and the first that is written; the other blocks of the processor fill it.
//
// Within a row, each thread reads back only what it copied into shared memory itself; blocks and threads exchange
// nothing but sums.
#pragma once

#include "common/stamped.cuh"
#include "sgr_loss/kernel.cuh"
#include "sgr_residual/plan.cuh"
#include "sgr_residual/row_cache.cuh"
#include "sgr_residual/short_rows.cuh"
#include "sgr_residual/turns.cuh"
#include "sgr_shift/kernel.cuh"

namespace sgr::cuda {

// A block has a row to itself. loss: one number. v: (rows, cols) contiguous.
template <typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_residual_rows_kernel(RowSet<T, 2> in, Options options, Mail mail, int slice, Wide<T>* loss, Wide<T>* v) {
  constexpr Sums first = kFirstSums<T, normalize>;
  const int length = static_cast<int>(in.cols());
  double block_loss = 0.0;
  bool copied = false;  // is the row already on its way?
  for (int64_t row = blockIdx.x; row < in.rows(); row += gridDim.x) {
    Wide<T>* to = v + row * in.cols();
    const Span span = align(length, reader_at(in, row, 0), to);
    const RowCache<T> cache(span, reinterpret_cast<T*>(shared_data()), slice);
    if (!copied) {
      __syncthreads();  // the row before may have been dealt out to the threads differently
      cache.copy(span, reader_at(in, row, 0));
    }
    double sums[3] = {0.0, 0.0, 0.0};
    cache.sweep_arriving(span, [&](int, const auto& pair) { add_pair<first>(pair, 1.0, 1.0, sums); });
    block_sum(sums);
    if constexpr (first == Sums::kNorms) {
      const double d_scale = 1.0 / sqrt(sums[0]), g_scale = 1.0 / sqrt(sums[1]);
      double distance[3] = {0.0, 0.0, 0.0};
      sweep<T>(span, cache,
               [&](int, const auto& pair) { add_pair<Sums::kUnitDistance>(pair, d_scale, g_scale, distance); });
      block_sum(distance);
      sums[2] = distance[2];
    }
    const RowCoef coef = finish_row<T>(sums, normalize, options);
    block_loss += coef.loss;
    const int64_t next = row + gridDim.x;
    if (next >= in.rows() && threadIdx.x == 0) mail.post_number(block_loss);
    const bool dead = coef.alpha == 0.0 && coef.beta == 0.0;
    const auto write = [&](int offset, const auto& pair) {
      store_global(to + offset, combine_pack<Wide<T>>(pair, coef.alpha, coef.beta, dead));
    };
    copied = next < in.rows() && align(length, reader_at(in, next, 0), v + next * in.cols()) == span;
    if (copied) cache.replace(span, reader_at(in, next, 0), write);
    else sweep<T>(span, cache, write);
  }
  if (blockIdx.x == gridDim.x - 1) mail.sum_numbers(loss);  // started last, it keeps nobody from starting
}

inline Chip this_chip() {
  return {device_attribute(cudaDevAttrMultiProcessorCount),
          device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
          device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          device_attribute(cudaDevAttrReservedSharedMemoryPerBlock)};
}

template <class Device, typename T, bool normalize>
void run_rows(Device& device, const RowSet<T, 2>& in, const Options& options, const OnChip& plan, const Chip& chip,
              Wide<T>* loss, Wide<T>* v, uint64_t stamp) {
  const auto kernel = sgr_residual_rows_kernel<T, normalize>;
  // The limit belongs to the kernel and not to a launch, so all threads of the process must set the same.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, chip.shared_per_block));
  const Mail mail{reinterpret_cast<Stamped*>(device.workspace(plan.blocks * kStampedDoubles)), stamp};
  launch_kernel(kernel, {plan.blocks, plan.threads, plan.shared_bytes}, device.stream(), in, options, mail,
                static_cast<int>(plan.slice), loss, v);
}

template <class Device, typename T, bool normalize>
void run_turns(Device& device, const RowSet<T, 2>& in, const Options& options, const Turns& turns, Wide<T>* loss,
               Wide<T>* v) {
  const Workspace work(device.workspace(Workspace::doubles(in.rows(), turns.pieces)), in.rows());
  work.sums.clear_tickets(in.rows(), device.stream());
  launch_kernel(sgr_residual_turns_kernel<T, normalize>, {turns.blocks(), kMaxThreads}, device.stream(), in, options,
                work, turns, loss, v);
}

template <class Device, typename T, bool normalize>
void run_normalized(Device& device, const RowSet<T, 2>& in, const Options& options, Wide<T>* loss, Wide<T>* v,
                    uint64_t stamp) {
  constexpr bool has_turns = kFirstSums<T, normalize> != Sums::kNorms;
  const Chip chip = this_chip();
  if (are_short(in, v, chip.processors))
    return run_short_rows<Device, T, normalize>(device, in, options, loss, v, stamp);
  const OnChip plan = plan_on_chip<T>(in.rows(), in.cols(), chip, !has_turns);
  if (plan.blocks > 0) return run_rows<Device, T, normalize>(device, in, options, plan, chip, loss, v, stamp);
  if constexpr (has_turns) {
    const Turns turns = plan_turns<T>(in.rows(), in.cols(), device_attribute(cudaDevAttrL2CacheSize));
    if (turns.blocks() == grid_for(turns.blocks()))
      return run_turns<Device, T, normalize>(device, in, options, turns, loss, v);
  }
  const Workspace work(device.workspace(Workspace::doubles(in.rows(), segments_of(in.cols()))), in.rows());
  launch_sgr_loss(in, options, work, work.coef, loss, device.stream());
  run_combine(device, in, work.coef, work.coef + in.rows(), Number<Wide<T>>{1.0, nullptr}, v);
}

// loss: one number. v: (rows, cols) contiguous. stamp: see stamped.cuh. Neither rows nor cols may be 0.
template <class Device, typename T>
void run_sgr_residual(Device& device, const RowSet<T, 2>& in, const Options& options, Wide<T>* loss, Wide<T>* v,
                      uint64_t stamp = new_stamp()) {
  const auto run = options.normalize ? run_normalized<Device, T, true> : run_normalized<Device, T, false>;
  run(device, in, options, loss, v, stamp);
}

}  // namespace sgr::cuda
