// The registered CPU operators of recorded gates: cut the tensor into stretches for torch's thread pool.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

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

void check_x(const Tensor& x) {
  STD_TORCH_CHECK(x.is_cpu(), "x must be a CPU tensor");
  check_gated(x);
}

// Writes y, which may be x.
Tensor record(const Tensor& x, double slope, const Tensor& y) {
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

void replay(const Tensor& x, const Tensor& bits, double slope, const Tensor& y) {
  STD_TORCH_CHECK(bits.is_cpu(), "bits must be a CPU tensor");
  check_gate_bits(bits, x);
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

std::tuple<Tensor, Tensor> record_relu(Tensor x, double slope) {
  check_x(x);
  auto y = torch::stable::new_empty(x, {x.numel()});
  auto bits = record(x, slope, y);
  return {y, bits};
}

Tensor record_relu_(Tensor x, double slope) {
  check_x(x);
  return record(x, slope, x);
}

Tensor replay_relu(Tensor x, Tensor bits, double slope) {
  check_x(x);
  auto y = torch::stable::new_empty(x, {x.numel()});
  replay(x, bits, slope, y);
  return y;
}

void replay_relu_(Tensor x, Tensor bits, double slope) {
  check_x(x);
  replay(x, bits, slope, x);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("record_relu", TORCH_BOX(&record_relu));
  m.impl("record_relu_", TORCH_BOX(&record_relu_));
  m.impl("replay_relu", TORCH_BOX(&replay_relu));
  m.impl("replay_relu_", TORCH_BOX(&replay_relu_));
}
