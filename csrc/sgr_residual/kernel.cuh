// Loss and v in one kernel that reads the inputs once: a row stays on chip, in the shared memory of one block or of a
// team of blocks. Rows that do not fit take the kernels of sgr_loss and sgr_shift.
//
// Memory is kept busy by copies that need no registers: all of a row is on its way before its first element is used, and
// while a row is written, what has been used makes place for the next one. What is left is the time between the last
// element that arrives and the first that is written, two to three microseconds of latencies; the other blocks of the
// processor fill it.
//
// Within a row, each thread reads back only what it copied into shared memory itself; blocks and threads exchange
// nothing but sums.
#pragma once

#include "common/stamped.cuh"
#include "sgr_loss/kernel.cuh"
#include "sgr_residual/plan.cuh"
#include "sgr_residual/row_cache.cuh"
#include "sgr_shift/kernel.cuh"

namespace sgr::cuda {

// `parts` blocks share a row, `slice` elements each. loss: one number. v: (rows, cols) contiguous.
template <typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_residual_kernel(RowSet<T, 2> in, Options options, Mail mail, int parts, int slice, Wide<T>* loss, Wide<T>* v) {
  constexpr Sums first = kFirstSums<T, normalize>;
  Team team = mail.team(parts);
  const int teams = gridDim.x / parts, part = blockIdx.x % parts;
  const int64_t begin = static_cast<int64_t>(part) * slice;
  const int length = static_cast<int>(in.cols() - begin < slice ? in.cols() - begin : slice);
  double block_loss = 0.0;
  bool copied = false;  // is the row already on its way?
  for (int64_t row = blockIdx.x / parts; row < in.rows(); row += teams) {
    Wide<T>* to = v + row * in.cols() + begin;
    const Span span = align(length, reader_at(in, row, begin), to);
    const RowCache<T> cache(span, slice);
    if (!copied) {
      __syncthreads();  // the row before may have been dealt out to the threads differently
      cache.copy(span, reader_at(in, row, begin));
    }
    double sums[3] = {0.0, 0.0, 0.0};
    cache.sweep_arriving(span, [&](int, const auto& pair) { add_pair<first>(pair, 1.0, 1.0, sums); });
    block_sum(sums);
    team.sum(sums);
    if constexpr (first == Sums::kNorms) {
      const double d_scale = 1.0 / sqrt(sums[0]), g_scale = 1.0 / sqrt(sums[1]);
      double distance[3] = {0.0, 0.0, 0.0};
      sweep<T>(span, cache,
               [&](int, const auto& pair) { add_pair<Sums::kUnitDistance>(pair, d_scale, g_scale, distance); });
      block_sum(distance);
      team.sum(distance);
      sums[2] = distance[2];
    }
    const RowCoef coef = finish_row<T>(sums, normalize, options);
    if (part == 0) block_loss += coef.loss;
    const int64_t next = row + teams;
    if (next >= in.rows() && threadIdx.x == 0) mail.post_number(block_loss);
    const bool dead = coef.alpha == 0.0 && coef.beta == 0.0;
    const auto write = [&](int offset, const auto& pair) {
      store_global(to + offset, combine_pack<Wide<T>>(pair, coef.alpha, coef.beta, dead));
    };
    copied = next < in.rows() && align(length, reader_at(in, next, begin), v + next * in.cols() + begin) == span;
    if (copied) cache.replace(span, reader_at(in, next, begin), write);
    else sweep<T>(span, cache, write);
  }
  if (blockIdx.x == gridDim.x - 1) mail.sum_numbers(loss);  // started last, it keeps nobody from starting
}

inline Chip this_chip() {
  return {device_attribute(cudaDevAttrMultiProcessorCount),
          device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
          device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          device_attribute(cudaDevAttrReservedSharedMemoryPerBlock),
          device_attribute(cudaDevAttrCooperativeLaunch) != 0};
}

// Lifts the kernel's limit to that of the device: it belongs to the kernel and not to a launch, so all threads of the
// process that launch it must set the same. Then asks whether the plan is right about what runs at the same time.
template <typename Kernel>
bool fits(Kernel kernel, const OnChip& plan, const Chip& chip) {
  if (plan.parts == 0) return false;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, chip.shared_per_block));
  if (plan.parts == 1) return true;
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, plan.threads, plan.shared_bytes));
  return plan.blocks <= static_cast<int64_t>(blocks) * chip.processors;
}

// loss: one number. v: (rows, cols) contiguous. stamp: see stamped.cuh. Neither rows nor cols may be 0.
template <class Device, typename T>
void run_sgr_residual(Device& device, const RowSet<T, 2>& in, const Options& options, Wide<T>* loss, Wide<T>* v,
                      uint64_t stamp = new_stamp()) {
  const auto kernel = options.normalize ? sgr_residual_kernel<T, true> : sgr_residual_kernel<T, false>;
  const Chip chip = this_chip();
  const OnChip plan = plan_on_chip<T>(in.rows(), in.cols(), chip);
  if (fits(kernel, plan, chip)) {
    const Mail mail(device.workspace(Mail::doubles(plan.blocks)), plan.blocks, stamp);
    const Launch launch{plan.blocks, plan.threads, plan.shared_bytes, plan.parts > 1};
    const int slice = static_cast<int>(plan.slice);
    if (launch_kernel(kernel, launch, device.stream(), in, options, mail, plan.parts, slice, loss, v)) return;
  }
  const Workspace work(device.workspace(Workspace::doubles(in.rows(), in.cols())), in.rows());
  launch_sgr_loss(in, options, work, work.coef, loss, device.stream());
  run_combine(device, in, work.coef, work.coef + in.rows(), Number<Wide<T>>{1.0, nullptr}, v);
}

}  // namespace sgr::cuda
