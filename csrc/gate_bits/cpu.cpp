// The operators of recorded gates on the CPU: cut the tensor into stretches for torch's thread pool.
#include <algorithm>

#include "common/cpu.h"
#include "gate_bits/gate_bits.h"
#include "gate_bits/kernel.h"

namespace sgr::cpu {

constexpr int64_t kBlock = 64;              // elements: whole words of gates, whatever the type
constexpr int64_t kGrain = 32768 / kBlock;  // blocks that are worth a thread

// f(first, count) for stretches of whole blocks, but for the end of the last one.
template <typename F>
void for_each_stretch(int64_t n, const F& f) {
  torch::stable::parallel_for(0, ceil_div(n, kBlock), kGrain, [&](int64_t begin, int64_t end) {
    f(begin * kBlock, std::min(end * kBlock, n) - begin * kBlock);
  });
}

template <typename T>
void run_record_relu(const Device&, const T* x, int64_t n, double slope, T* y, uint8_t* bits) {
  for_each_stretch(n, [=](int64_t first, int64_t count) {
    record_relu(x + first, count, slope, y + first, bits + first / 8);
  });
}

template <typename T>
void run_replay_relu(const Device&, const T* x, const uint8_t* bits, int64_t n, double slope, T* y) {
  for_each_stretch(n, [=](int64_t first, int64_t count) {
    replay_relu(x + first, bits + first / 8, count, slope, y + first);
  });
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { sgr::GateBits<sgr::cpu::Device>::implement(m); }
