// The registered CPU operator of the gate: cuts the tensor into blocks of rows and channels for torch's thread pool.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "sgr/cpu/gate.h"
#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cpu;

// Blocks depend on the shape alone: sums do not depend on the number of threads. There are few, because each has a sum
// for every one of its channels.
constexpr int64_t kRowBlocks = 16;
constexpr int64_t kBlocks = 32;
constexpr int64_t kGrain = 32768;  // elements that are worth a thread

struct Blocks {
  int64_t rows, channels, inner, row_blocks, channel_blocks;

  Blocks(int64_t rows, int64_t channels, int64_t inner)
      : rows(rows),
        channels(channels),
        inner(inner),
        row_blocks(std::min(rows, kRowBlocks)),
        channel_blocks(std::min(channels, ceil_div(kBlocks, row_blocks))) {}

  static int64_t edge(int64_t block, int64_t blocks, int64_t count) { return block * count / blocks; }

  // f(row block, first row, last row, first channel, last channel) for every block.
  template <typename F>
  void for_each(const F& f) const {
    const int64_t tasks = row_blocks * channel_blocks;
    const int64_t grain = std::max<int64_t>(1, kGrain * tasks / std::max<int64_t>(1, rows * channels * inner));
    torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t r = task / channel_blocks, c = task % channel_blocks;
        f(r, edge(r, row_blocks, rows), edge(r + 1, row_blocks, rows), edge(c, channel_blocks, channels),
          edge(c + 1, channel_blocks, channels));
      }
    });
  }
};

// partial: (row blocks, channels), zero.
template <typename T>
void gate(const T* grad, const T* output, const Blocks& blocks, T* out, double* partial) {
  blocks.for_each([&](int64_t block, int64_t row, int64_t last_row, int64_t channel, int64_t last_channel) {
    double* sums = partial + block * blocks.channels;
    for (; row < last_row; ++row) {
      const int64_t at = (row * blocks.channels + channel) * blocks.inner;
      if (blocks.inner == 1) {
        gate_columns(grad + at, output + at, last_channel - channel, out + at, sums + channel);
        continue;
      }
      for (int64_t c = channel; c < last_channel; ++c) {
        const int64_t slice = at + (c - channel) * blocks.inner;
        sums[c] += gate_slice(grad + slice, output + slice, blocks.inner, out + slice);
      }
    }
  });
}

template <typename T>
void add_blocks(const std::vector<double>& partial, const Blocks& blocks, T* sums) {
  for (int64_t c = 0; c < blocks.channels; ++c) {
    double sum = 0.0;
    for (int64_t block = 0; block < blocks.row_blocks; ++block) sum += partial[block * blocks.channels + c];
    sums[c] = static_cast<T>(sum);
  }
}

std::tuple<Tensor, Tensor> relu_backward(Tensor grad, Tensor output, bool sum_channels) {
  check_alike(grad, output, "grad and output");
  STD_TORCH_CHECK(grad.dim() == 3 && grad.is_contiguous() && output.is_contiguous(),
                  "grad and output must be contiguous (R, C, S)");
  auto out = torch::stable::new_empty(grad, {grad.size(0), grad.size(1), grad.size(2)});
  auto sums = torch::stable::new_zeros(grad, {sum_channels ? grad.size(1) : 0}, result_type(grad));
  if (grad.numel() == 0) return {out, sums};
  const Blocks blocks(grad.size(0), grad.size(1), grad.size(2));
  std::vector<double> partial(blocks.row_blocks * blocks.channels);
  dispatch(grad.scalar_type(), [&](auto type) {
    using T = decltype(type);
    gate(data<T>(grad), data<T>(output), blocks, mutable_data<T>(out), partial.data());
    if (sum_channels) add_blocks(partial, blocks, mutable_data<Wide<T>>(sums));
  });
  return {out, sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { m.impl("relu_backward", TORCH_BOX(&relu_backward)); }
