// The operators of recorded gates on the CPU: cut the tensor into stretches for torch's thread pool.
//
// As many gates as an element has bits make a word. One loop handles the elements of a word: each lane of a vector has
// its own bit, and the "or" of all lanes is the word. Compilers vectorise that for every instruction set.
#include <algorithm>

#include "common/cpu.h"
#include "gate_bits/operator.h"

namespace sgr::cpu {

template <typename T>
using Word = decltype(to_bits(T{}));

template <typename T>
constexpr int kGates = 8 * sizeof(T);  // in a word

// bit[k] = 1 << k. A table, because compilers do not vectorise shifts of 16-bit numbers.
template <typename W>
struct Lanes {
  W bit[8 * sizeof(W)] = {};
  constexpr Lanes() {
    for (unsigned k = 0; k < 8 * sizeof(W); ++k) bit[k] = static_cast<W>(W{1} << k);
  }
};
template <typename W>
constexpr Lanes<W> kLanes;

// Gates are masks, because compilers vectorise those and not a choice.
template <typename W>
SGR_ALWAYS_INLINE W mask(bool shut) {
  return shut ? W{0} : static_cast<W>(~W{0});
}

// Asks for closed gates: NaN is open. Half types are compared as signed integers, without conversion: closed are +0 and
// everything from -0, the smallest integer, to -Inf. The negative NaNs are larger, and open.
SGR_ALWAYS_INLINE uint64_t gate_of(double x) { return mask<uint64_t>(x <= 0); }
SGR_ALWAYS_INLINE uint32_t gate_of(float x) { return mask<uint32_t>(x <= 0); }
SGR_ALWAYS_INLINE uint16_t gate_of(int16_t bits, int16_t minus_infinity) {
  return mask<uint16_t>(bits == 0) & mask<uint16_t>(bits <= minus_infinity);
}
SGR_ALWAYS_INLINE uint16_t gate_of(BFloat16 x) { return gate_of(static_cast<int16_t>(x.bits), -0x80); }
SGR_ALWAYS_INLINE uint16_t gate_of(Float16 x) { return gate_of(static_cast<int16_t>(x.bits), -0x400); }

// f(what a closed gate gives for x, as bits): nothing, or slope * x.
template <typename T, typename F>
SGR_ALWAYS_INLINE void with_closed(double slope, const F& f) {
  if (slope == 0) return f([](T) { return Word<T>{0}; });
  const auto factor = static_cast<decltype(to_float(T{}))>(slope);
  f([=](T x) __attribute__((always_inline)) {
    T leaked;
    from_double(factor * to_float(x), &leaked);
    return to_bits(leaked);
  });
}

template <typename T>
SGR_ALWAYS_INLINE void pass(T x, Word<T> gate, Word<T> closed, T* y) {
  from_bits(static_cast<Word<T>>((to_bits(x) & gate) | (closed & ~gate)), y);
}

template <typename T, typename Closed>
SGR_ALWAYS_INLINE Word<T> record_word(const T* x, const Closed& closed, T* y) {
  Word<T> word = 0;
#pragma omp simd reduction(| : word)
  for (int k = 0; k < kGates<T>; ++k) {
    const Word<T> gate = gate_of(x[k]);
    word |= gate & kLanes<Word<T>>.bit[k];
    pass(x[k], gate, closed(x[k]), y + k);
  }
  return word;
}

template <typename T, typename Closed>
SGR_ALWAYS_INLINE void replay_word(const T* x, Word<T> word, const Closed& closed, T* y) {
#pragma omp simd
  for (int k = 0; k < kGates<T>; ++k) {
    const Word<T> bit = word & kLanes<Word<T>>.bit[k];
    pass(x[k], mask<Word<T>>(bit == 0), closed(x[k]), y + k);
  }
}

// In memory the lowest byte of a word comes first, on every machine.
template <typename W>
SGR_ALWAYS_INLINE void store_word(W word, int bytes, uint8_t* to) {
  for (int i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(word >> 8 * i);
}

template <typename W>
SGR_ALWAYS_INLINE W load_word(const uint8_t* from, int bytes) {
  W word = 0;
  for (int i = 0; i < bytes; ++i) word |= static_cast<W>(W{from[i]} << 8 * i);
  return word;
}

// use(x, first byte, bytes, y) for every word; for an incomplete one with a copy of its elements and zeros behind them.
template <typename T, typename Use>
SGR_ALWAYS_INLINE void for_each_word(const T* x, int64_t n, T* y, const Use& use) {
  int64_t i = 0;
  for (; i + kGates<T> <= n; i += kGates<T>) use(x + i, i / 8, static_cast<int>(sizeof(T)), y + i);
  if (i == n) return;
  T rest[kGates<T>] = {};
  std::copy(x + i, x + n, rest);
  use(rest, i / 8, static_cast<int>(n - i + 7) / 8, rest);
  std::copy(rest, rest + (n - i), y + i);
}

// y = leaky ReLU of x, with bit i % 8 of byte i / 8 set where x > 0 (or NaN), and no bit beyond n. Closed gates let
// slope * x through, and plain 0 if slope is 0. x, y: (n); y may be x. bits: ((n + 7) / 8).
template <typename T>
SGR_CLONES void record_relu(const T* x, int64_t n, double slope, T* y, uint8_t* bits) {
  with_closed<T>(slope, [&](const auto& closed) __attribute__((always_inline)) {
    for_each_word(x, n, y, [&](const T* from, int64_t byte, int bytes, T* to) __attribute__((always_inline)) {
      store_word(record_word(from, closed, to), bytes, bits + byte);
    });
  });
}

// The same with bits given.
template <typename T>
SGR_CLONES void replay_relu(const T* x, const uint8_t* bits, int64_t n, double slope, T* y) {
  with_closed<T>(slope, [&](const auto& closed) __attribute__((always_inline)) {
    for_each_word(x, n, y, [&](const T* from, int64_t byte, int bytes, T* to) __attribute__((always_inline)) {
      replay_word(from, load_word<Word<T>>(bits + byte, bytes), closed, to);
    });
  });
}

constexpr int64_t kBlock = 64;  // elements: whole words of gates, whatever the type

// f(first, count) for stretches of whole blocks, but for the end of the last one.
template <typename F>
void for_each_stretch(int64_t n, const F& f) {
  parallel_for(0, ceil_div(n, kBlock), kGrain / kBlock, [&](int64_t begin, int64_t end) {
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

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("record_relu", SGR_BOX(&sgr::record_relu<sgr::cpu::Device>));
  m.impl("record_relu_", SGR_BOX(&sgr::record_relu_<sgr::cpu::Device>));
  m.impl("replay_relu", SGR_BOX(&sgr::replay_relu<sgr::cpu::Device>));
  m.impl("replay_relu_", SGR_BOX(&sgr::replay_relu_<sgr::cpu::Device>));
}
