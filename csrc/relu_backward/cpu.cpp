// relu_backward on the CPU: cuts the tensor into blocks of rows and channels for torch's thread pool.
#include <algorithm>
#include <vector>

#include "common/cpu.h"
#include "relu_backward/operator.h"

namespace sgr::cpu {

// Asks for closed gates: NaN passes, and shows. A mask, because compilers vectorise that and not a choice. Returns what
// it stores.
template <typename T>
SGR_ALWAYS_INLINE double mask(const T& grad, const T& output, T* out) {
  using Bits = decltype(to_bits(grad));
  const Bits open = to_float(output) <= 0 ? Bits{0} : static_cast<Bits>(~Bits{0});
  from_bits(static_cast<Bits>(to_bits(grad) & open), out);
  return to_float(*out);
}

// out = grad where output > 0, else 0. Adds out to the sums of its columns. All (n).
template <typename T>
SGR_CLONES void mask_columns(const T* __restrict grad, const T* __restrict output, int64_t n, T* __restrict out,
                             double* __restrict sums) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) sums[i] += mask(grad[i], output[i], out + i);
}

// The same without sums of columns; returns the sum of out.
template <typename T>
SGR_CLONES double mask_slice(const T* __restrict grad, const T* __restrict output, int64_t n, T* __restrict out) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += mask(grad[i], output[i], out + i);
  return sum;
}

// Blocks depend on the shape alone: sums do not depend on the number of threads. There are few, because each has a sum
// for every one of its channels.
constexpr int64_t kRowBlocks = 16;
constexpr int64_t kBlocks = 32;

template <typename T>
void run_relu_backward(const Device&, const T* grad, const T* output, int64_t rows, int64_t channels, int64_t size,
                       T* masked, Wide<T>* sums) {
  const int64_t row_blocks = std::min(rows, kRowBlocks);
  const int64_t channel_blocks = std::min(channels, ceil_div(kBlocks, row_blocks));
  const int64_t tasks = row_blocks * channel_blocks;
  const int64_t grain = std::max<int64_t>(1, kGrain * tasks / (rows * channels * size));
  std::vector<double> partial(row_blocks * channels);
  parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task / channel_blocks, part = task % channel_blocks;
      const int64_t first = part * channels / channel_blocks, last = (part + 1) * channels / channel_blocks;
      double* block_sums = &partial[block * channels];
      for (int64_t row = block * rows / row_blocks; row < (block + 1) * rows / row_blocks; ++row) {
        const int64_t at = (row * channels + first) * size;
        if (size == 1) {
          mask_columns(grad + at, output + at, last - first, masked + at, block_sums + first);
          continue;
        }
        for (int64_t c = first; c < last; ++c) {
          const int64_t slice = at + (c - first) * size;
          block_sums[c] += mask_slice(grad + slice, output + slice, size, masked + slice);
        }
      }
    }
  });
  if (sums == nullptr) return;
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0.0;
    for (int64_t block = 0; block < row_blocks; ++block) sum += partial[block * channels + c];
    sums[c] = static_cast<Wide<T>>(sum);
  }
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { m.impl("relu_backward", SGR_BOX(&sgr::relu_backward<sgr::cpu::Device>)); }
