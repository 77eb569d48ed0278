// relu_backward on the CPU: cuts the tensor into blocks of rows and channels for torch's thread pool.
#include <algorithm>
#include <vector>

#include "common/cpu.h"
#include "relu_backward/kernel.h"
#include "relu_backward/relu_backward.h"

namespace sgr::cpu {

// Blocks depend on the shape alone: sums do not depend on the number of threads. There are few, because each has a sum
// for every one of its channels.
constexpr int64_t kRowBlocks = 16;
constexpr int64_t kBlocks = 32;
constexpr int64_t kGrain = 32768;  // elements that are worth a thread

struct Blocks {
  int64_t rows, channels, size;
  int64_t row_blocks = std::min(rows, kRowBlocks);
  int64_t channel_blocks = std::min(channels, ceil_div(kBlocks, row_blocks));

  static int64_t edge(int64_t block, int64_t blocks, int64_t count) { return block * count / blocks; }

  // f(row block, first row, last row, first channel, last channel) for every block.
  template <typename F>
  void for_each(const F& f) const {
    const int64_t tasks = row_blocks * channel_blocks;
    const int64_t grain = std::max<int64_t>(1, kGrain * tasks / std::max<int64_t>(1, rows * channels * size));
    torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t r = task / channel_blocks, c = task % channel_blocks;
        f(r, edge(r, row_blocks, rows), edge(r + 1, row_blocks, rows), edge(c, channel_blocks, channels),
          edge(c + 1, channel_blocks, channels));
      }
    });
  }
};

template <typename T>
void run_relu_backward(const Device&, const T* grad, const T* output, int64_t rows, int64_t channels, int64_t size,
                       T* masked, Wide<T>* sums) {
  const Blocks blocks{rows, channels, size};
  std::vector<double> partial(blocks.row_blocks * channels);
  blocks.for_each([&](int64_t block, int64_t row, int64_t last_row, int64_t channel, int64_t last_channel) {
    double* block_sums = partial.data() + block * channels;
    for (; row < last_row; ++row) {
      const int64_t at = (row * channels + channel) * size;
      if (size == 1) {
        mask_columns(grad + at, output + at, last_channel - channel, masked + at, block_sums + channel);
        continue;
      }
      for (int64_t c = channel; c < last_channel; ++c) {
        const int64_t slice = at + (c - channel) * size;
        block_sums[c] += mask_slice(grad + slice, output + slice, size, masked + slice);
      }
    }
  });
  if (sums == nullptr) return;
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0.0;
    for (int64_t block = 0; block < blocks.row_blocks; ++block) sum += partial[block * channels + c];
    sums[c] = static_cast<Wide<T>>(sum);
  }
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { sgr::ReluBackward<sgr::cpu::Device>::implement(m); }
