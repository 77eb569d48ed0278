// Rows so short that the registers of a block hold one, and so few that every block has a processor to itself: nothing
// could be read while it writes, and shared memory would be a detour.
#pragma once

#include "common/stamped.cuh"
#include "sgr_loss/kernel.cuh"
#include "sgr_shift/kernel.cuh"

namespace sgr::cuda {

constexpr int kShortPacks = 4;  // of each input, that a thread keeps

// Whole packs only, which all pointers are aligned to.
template <typename T>
bool are_short(const RowSet<T, 2>& in, const Wide<T>* v, int processors) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  bool packed = in.cols() % kPack<T> == 0 && aligned(v);
  for (const auto& rows : in.matrix) packed = packed && aligned(rows.data) && rows.stride % kPack<T> == 0;
  return packed && in.rows() <= processors && in.cols() <= kShortPacks * kMaxThreads * kPack<T>;
}

inline int threads_of_short_rows(int64_t packs) {
  return static_cast<int>(std::max<int64_t>(ceil_div(ceil_div(packs, kShortPacks), 32) * 32, 64));
}

// A block a row. loss: one number. v: (rows, cols) contiguous.
template <typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads)
    sgr_residual_short_kernel(RowSet<T, 2> in, Options options, Mail mail, Wide<T>* loss, Wide<T>* v) {
  constexpr Sums first = kFirstSums<T, normalize>;
  constexpr int width = kPack<T>;
  const int packs = static_cast<int>(in.cols()) / width;
  const auto reader = reader_at(in, blockIdx.x, 0);
  const auto place = [&](int k) { return static_cast<int>(threadIdx.x + k * blockDim.x); };
  Packs<T, width, 2> kept[kShortPacks];
#pragma unroll
  for (int k = 0; k < kShortPacks; ++k) {
    kept[k] = {};  // which adds nothing
    if (place(k) < packs) kept[k] = reader.template read<width>(place(k) * width);
  }
  double sums[3] = {0.0, 0.0, 0.0};
#pragma unroll
  for (int k = 0; k < kShortPacks; ++k) add_pair<first>(kept[k], 1.0, 1.0, sums);
  block_sum(sums);
  if constexpr (first == Sums::kNorms) {
    const double d_scale = 1.0 / sqrt(sums[0]), g_scale = 1.0 / sqrt(sums[1]);
    double distance[3] = {0.0, 0.0, 0.0};
#pragma unroll
    for (int k = 0; k < kShortPacks; ++k)
      if (place(k) < packs) add_pair<Sums::kUnitDistance>(kept[k], d_scale, g_scale, distance);
    block_sum(distance);
    sums[2] = distance[2];
  }
  const RowCoef coef = finish_row<T>(sums, normalize, options);
  if (threadIdx.x == 0) mail.post_number(coef.loss);
  const bool dead = coef.alpha == 0.0 && coef.beta == 0.0;
  Wide<T>* to = v + blockIdx.x * in.cols();
#pragma unroll
  for (int k = 0; k < kShortPacks; ++k)
    if (place(k) < packs)
      store_global(to + place(k) * width, combine_pack<Wide<T>>(kept[k], coef.alpha, coef.beta, dead));
  if (blockIdx.x == gridDim.x - 1) mail.sum_numbers(loss);  // started last, it keeps nobody from starting
}

template <class Device, typename T, bool normalize>
void run_short_rows(Device& device, const RowSet<T, 2>& in, const Options& options, Wide<T>* loss, Wide<T>* v,
                    uint64_t stamp) {
  const Mail mail{reinterpret_cast<Stamped*>(device.workspace(in.rows() * kStampedDoubles)), stamp};
  const Launch launch{in.rows(), threads_of_short_rows(in.cols() / kPack<T>)};
  launch_kernel(sgr_residual_short_kernel<T, normalize>, launch, device.stream(), in, options, mail, loss, v);
}

}  // namespace sgr::cuda
