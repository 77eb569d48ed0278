// The registered CPU operators of recorded gates: cut the tensor into stretches for torch's thread pool.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../gate_bits.h"
#include "sgr/cpu/gate_words.h"
#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cpu;

constexpr int64_t kBlock = 64;              // elements: whole words of gates, whatever the type
constexpr int64_t kGrain = 32768 / kBlock;  // blocks that are worth a thread

// f(first, count) for stretches of whole blocks, but for the end of the last one.
template <typename F>
void for_each_stretch(int64_t n, const F& f) {
  torch::stable::parallel_for(0, ceil_div(n, kBlock), kGrain, [&](int64_t begin, int64_t end) {
    f(begin * kBlock, std::min(end * kBlock, n) - begin * kBlock);
  });
}

struct Cpu {
  static void check(const Tensor& x) { STD_TORCH_CHECK(x.is_cpu(), "x must be a CPU tensor"); }

  static Tensor record(const Tensor& x, double slope, const Tensor& y) {
    auto bits = torch::stable::new_empty(x, {gate_bytes(x)}, ScalarType::Byte);
    dispatch(x.scalar_type(), [&](auto type) {
      using T = decltype(type);
      T* to = mutable_data<T>(y);
      const T* from = data<T>(x);
      uint8_t* gates = mutable_data<uint8_t>(bits);
      for_each_stretch(x.numel(), [=](int64_t first, int64_t count) {
        record_gates(from + first, count, slope, to + first, gates + first / 8);
      });
    });
    return bits;
  }

  static void replay(const Tensor& x, const Tensor& bits, double slope, const Tensor& y) {
    STD_TORCH_CHECK(bits.is_cpu(), "bits must be a CPU tensor");
    dispatch(x.scalar_type(), [&](auto type) {
      using T = decltype(type);
      T* to = mutable_data<T>(y);
      const T* from = data<T>(x);
      const uint8_t* gates = data<uint8_t>(bits);
      for_each_stretch(x.numel(), [=](int64_t first, int64_t count) {
        replay_gates(from + first, gates + first / 8, count, slope, to + first);
      });
    });
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { SGR_IMPLEMENT_GATES(m, Cpu); }
