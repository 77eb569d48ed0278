// Loss and v in one kernel that reads the inputs once: a row stays on chip, in the shared memory of one block or of a
// cluster of blocks. Rows that do not fit take the kernels of sgr_loss and sgr_shift.
//
// Within a row, each thread reads back only what it put into shared memory itself; blocks and threads exchange nothing
// but sums.
#pragma once

#include "sgr_loss/kernel.cuh"
#include "sgr_shift/kernel.cuh"

namespace sgr::cuda {

// A stretch of delta and target in shared memory: its packs first, so that they are aligned, then its single elements.
template <typename T>
struct RowCache {
  T* row[2];
  int head, packed;

  static constexpr int64_t kSliceUnit = 64;  // slices are multiples of it; keeps the second row aligned
  static constexpr size_t bytes(int64_t slice) { return 2 * slice * sizeof(T); }

  __device__ RowCache(const Span& span, int slice) : head(span.head), packed(span.packs * kPack<T>) {
    row[0] = reinterpret_cast<T*>(shared_data());
    row[1] = row[0] + slice;
  }

  template <int width>
  __device__ Packs<T, width, 2> read(int offset) const {
    return {pack_of<T, width>(*place<width>(row[0], offset)), pack_of<T, width>(*place<width>(row[1], offset))};
  }
  template <int width>
  __device__ void write(int offset, const Packs<T, width, 2>& packs) const {
    *place<width>(row[0], offset) = word_of(packs.row[0]);
    *place<width>(row[1], offset) = word_of(packs.row[1]);
  }

 private:
  template <int width>
  __device__ WordOf<T, width>* place(T* row, int offset) const {
    if constexpr (width == 1) return reinterpret_cast<WordOf<T, 1>*>(row) + (offset < head ? offset + packed : offset);
    else return reinterpret_cast<WordOf<T, width>*>(row) + (offset - head) / width;
  }
};

// `parts` blocks (a cluster if more than one) share a row, `slice` elements each. loss: one number. v: (rows, cols)
// contiguous.
template <typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_residual_kernel(RowSet<T, 2> in, Options options, Workspace work, int parts, int slice, Wide<T>* loss,
                        Wide<T>* v) {
  constexpr Sums first = kFirstSums<T, normalize>;
  const int part = static_cast<int>(blockIdx.x % parts);
  const int64_t begin = static_cast<int64_t>(part) * slice;
  const int64_t left = in.cols() > begin ? in.cols() - begin : 0;
  const int length = static_cast<int>(left < slice ? left : slice);
  for (int64_t row = blockIdx.x / parts; row < in.rows(); row += gridDim.x / parts) {
    const auto reader = reader_at(in, row, begin);
    Wide<T>* to = v + row * in.cols() + begin;
    const Span span = align(length, reader, to);
    const RowCache<T> cache(span, slice);
    double sums[3] = {0.0, 0.0, 0.0};
    sweep<T>(span, reader, [&](int offset, const auto& pair) {
      cache.write(offset, pair);
      add_pair<first>(pair, 1.0, 1.0, sums);
    });
    block_sum(sums);
    cluster_sum(sums, parts);
    if constexpr (first == Sums::kNorms) {
      const double d_scale = 1.0 / sqrt(sums[0]), g_scale = 1.0 / sqrt(sums[1]);
      double distance[3] = {0.0, 0.0, 0.0};
      sweep<T>(span, cache,
               [&](int, const auto& pair) { add_pair<Sums::kUnitDistance>(pair, d_scale, g_scale, distance); });
      block_sum(distance);
      cluster_sum(distance, parts);
      sums[2] = distance[2];
    }
    const RowCoef coef = finish_row<T>(sums, normalize, options);
    if (part == 0 && threadIdx.x == 0) work.row_loss[row] = coef.loss;
    const bool dead = coef.alpha == 0.0 && coef.beta == 0.0;
    sweep<T>(span, cache, [&](int offset, const auto& pair) {
      store_global(to + offset, combine_pack<Wide<T>>(pair, coef.alpha, coef.beta, dead));
    });
    __syncthreads();  // the next row may be dealt out to the threads differently
  }
  if (part > 0) return;
  if (last_to_arrive(work.sums.tickets, gridDim.x / parts)) sum_numbers(work.row_loss, in.rows(), loss);
}

// How a row is spread over blocks; parts = 0: it does not fit on chip.
struct OnChip {
  int parts;
  int64_t slice;
  size_t shared_bytes;
};

template <typename T>
OnChip spread_row(int64_t cols, int parts) {
  constexpr int64_t unit = RowCache<T>::kSliceUnit;
  const int64_t slice = ((cols + parts - 1) / parts + unit - 1) / unit * unit;
  return {parts, slice, sizeof(Scratch) + RowCache<T>::bytes(slice)};
}

// Can clusters of this shape run here? The device must know clusters, the code must have been compiled for such devices
// (an older build can run on a newer device), and enough neighbouring processors must be free of other partitions.
template <typename Kernel>
bool cluster_fits(Kernel kernel, const Launch& launch) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel));
  if (!device_attribute(cudaDevAttrClusterLaunch) || attributes.ptxVersion < 90) return false;
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = launch_config(launch, &cluster, nullptr);
  int clusters = 0;
  const cudaError_t refused = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  if (refused != cudaSuccess) cudaGetLastError();  // an answer too: sizes above 8 need not be known to the device
  return refused == cudaSuccess && clusters > 0;
}

// The smallest cluster that leaves room for three blocks on a processor, so that one row is read while another is
// written; else for two, else for one. Clusters of 16 run on some devices only and come last. Lifts the kernel's limits
// to those of the device: they belong to the kernel and not to a launch, so all threads of the process that launch it
// must set the same.
template <typename T, typename Kernel>
OnChip plan_on_chip(Kernel kernel, int64_t cols) {
  const int per_processor = device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  const int reserved = device_attribute(cudaDevAttrReservedSharedMemoryPerBlock);
  const int per_block = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  for (int blocks = 3; blocks > 0; --blocks) {  // on a processor
    const int64_t budget = std::min(per_processor / blocks - reserved, per_block);
    for (int parts = 1; parts <= (blocks > 1 ? 8 : 16); parts *= 2) {
      const OnChip plan = spread_row<T>(cols, parts);
      if (static_cast<int64_t>(plan.shared_bytes) > budget) continue;
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, per_block));
      if (parts > 8) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
      const Launch launch{parts, threads_for<T>(plan.slice), plan.shared_bytes, parts};
      if (parts == 1 || cluster_fits(kernel, launch)) return plan;
    }
  }
  return {0, 0, 0};
}

// loss: one number. v: (rows, cols) contiguous. Neither rows nor cols may be 0.
template <class Device, typename T>
void run_sgr_residual(Device& device, const RowSet<T, 2>& in, const Options& options, Wide<T>* loss, Wide<T>* v) {
  const Workspace work(device.workspace(Workspace::doubles(in.rows(), in.cols())), in.rows());
  const auto kernel = options.normalize ? sgr_residual_kernel<T, true> : sgr_residual_kernel<T, false>;
  const OnChip plan = plan_on_chip<T>(kernel, in.cols());
  if (plan.parts == 0) {
    launch_sgr_loss(in, options, work, work.coef, loss, device.stream());
    return run_combine(device, in, work.coef, work.coef + in.rows(), Number<Wide<T>>{1.0, nullptr}, v);
  }
  const Launch launch{grid_for(in.rows(), plan.parts), threads_for<T>(plan.slice), plan.shared_bytes, plan.parts};
  work.sums.clear_tickets(0, device.stream());
  launch_kernel(kernel, launch, device.stream(), in, options, work, plan.parts, static_cast<int>(plan.slice), loss, v);
}

}  // namespace sgr::cuda
