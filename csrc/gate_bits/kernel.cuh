// Leaky ReLU of n elements with recorded gates: y = x where they are open, else slope * x (plain 0 if slope is 0). One
// kernel decides on the gates and writes them down, one bit an element, the other one is given them. y may be x.
#pragma once

#include "common/launch.cuh"

namespace sgr::cuda {

// x, y: (n).
template <typename T>
struct Gated {
  const T* x;
  T* y;
  int64_t n;
  double slope;
};

// `left` elements remain; those past the end count as 0. Not through the read-only cache: x may be y, which other
// threads write. Returns the raw word, because unpacking it here would wait for the load.
template <typename T, int width>
__device__ inline WordOf<T, width> load_word(const T* from, int64_t left) {
  if (left >= width) return __ldca(reinterpret_cast<const WordOf<T, width>*>(from));
  Pack<T, width> pack{};
#pragma unroll
  for (int k = 0; k < width; ++k)
    if (k < left) pack.value[k] = from[k];
  return word_of(pack);
}

template <typename T, int width>
__device__ inline void store_pack(T* to, const Pack<T, width>& pack, int64_t left) {
  if (left >= width) return store_global(to, pack);
#pragma unroll
  for (int k = 0; k < width; ++k)
    if (k < left) to[k] = pack.value[k];
}

template <typename T>
__device__ inline Wide<T> to_wide(T x) {
  return static_cast<Wide<T>>(to_double(x));
}

// Bit k: is the gate of element k open? Asks for closed gates: NaN is open.
template <typename T, int width>
__device__ inline unsigned gates_of(const Pack<T, width>& x) {
  unsigned gates = 0;
#pragma unroll
  for (int k = 0; k < width; ++k)
    if (!(to_wide(x.value[k]) <= 0)) gates |= 1u << k;
  return gates;
}

template <typename T, int width>
__device__ inline Pack<T, width> pass(const Pack<T, width>& x, unsigned gates, double slope) {
  const bool leaky = slope != 0;
  const auto factor = static_cast<Wide<T>>(slope);
  Pack<T, width> y = x;
#pragma unroll
  for (int k = 0; k < width; ++k)
    if ((gates >> k & 1) == 0) from_double(leaky ? factor * to_wide(x.value[k]) : 0, &y.value[k]);
  return y;
}

// Threads side by side have `width` gates of a byte each: all of them get the whole byte.
template <int width>
__device__ inline unsigned whole_byte(unsigned gates) {
  constexpr int threads = 8 / width;
  gates <<= threadIdx.x % threads * width;
#pragma unroll
  for (int offset = 1; offset < threads; offset *= 2) gates |= __shfl_xor_sync(0xffffffffu, gates, offset);
  return gates;
}

// use(i, read(i)) for packs at i, which may lie past the end: all threads of a block take part in every turn, so that
// they can shuffle. Several packs are read before the first is used: bytes in flight are what keeps the memory busy.
constexpr int kPacksInFlight = 4;

template <int width, typename Read, typename Use>
__device__ __forceinline__ void for_each_pack(int64_t n, const Read& read, const Use& use) {
  const int64_t step = int64_t{width} * blockDim.x, turn = kPacksInFlight * step;
  for (int64_t begin = blockIdx.x * turn; begin < n; begin += gridDim.x * turn) {
    const int64_t i = begin + threadIdx.x * width;
    decltype(read(i)) packs[kPacksInFlight];
#pragma unroll
    for (int k = 0; k < kPacksInFlight; ++k) packs[k] = read(i + k * step);
#pragma unroll
    for (int k = 0; k < kPacksInFlight; ++k) use(i + k * step, packs[k]);
  }
}

// bits: ((n + 7) / 8).
template <typename T, int width>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks) record_relu_kernel(Gated<T> in, uint8_t* bits) {
  const auto read = [&](int64_t i) { return load_word<T, width>(in.x + i, in.n - i); };
  for_each_pack<width>(in.n, read, [&](int64_t i, const auto& word) {
    const auto x = pack_of<T, width>(word);
    const unsigned gates = gates_of(x), byte = whole_byte<width>(gates);
    store_pack(in.y + i, pass(x, gates, in.slope), in.n - i);
    if (i % 8 == 0 && i < in.n) bits[i / 8] = static_cast<uint8_t>(byte);
  });
}

template <typename T, int width>
struct WordWithGates {
  WordOf<T, width> word;
  unsigned byte;
};

// bits: ((n + 7) / 8).
template <typename T, int width>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks) replay_relu_kernel(Gated<T> in, const uint8_t* bits) {
  const auto read = [&](int64_t i) {
    const unsigned byte = i < in.n ? __ldg(bits + i / 8) : 0;
    return WordWithGates<T, width>{load_word<T, width>(in.x + i, in.n - i), byte};
  };
  for_each_pack<width>(in.n, read, [&](int64_t i, const auto& x) {
    store_pack(in.y + i, pass(pack_of<T, width>(x.word), x.byte >> i % 8, in.slope), in.n - i);
  });
}

// Launches the first kernel where packs are aligned, else the second, which takes single elements.
template <typename T, typename Bits>
void launch_gated(void (*by_packs)(Gated<T>, Bits*), void (*one_by_one)(Gated<T>, Bits*), const Gated<T>& in,
                  Bits* bits, cudaStream_t stream) {
  if (in.n == 0) return;
  const bool aligned = (reinterpret_cast<uintptr_t>(in.x) | reinterpret_cast<uintptr_t>(in.y)) % 16 == 0;
  const int64_t turn = kPacksInFlight * (aligned ? kPack<T> : 1) * kMaxThreads;
  launch_kernel(aligned ? by_packs : one_by_one, {grid_for(ceil_div(in.n, turn)), kMaxThreads, 0}, stream, in, bits);
}

// bits: ((n + 7) / 8).
template <class Device, typename T>
void run_record_relu(Device& device, const T* x, int64_t n, double slope, T* y, uint8_t* bits) {
  launch_gated(record_relu_kernel<T, kPack<T>>, record_relu_kernel<T, 1>, {x, y, n, slope}, bits, device.stream());
}

template <class Device, typename T>
void run_replay_relu(Device& device, const T* x, const uint8_t* bits, int64_t n, double slope, T* y) {
  launch_gated(replay_relu_kernel<T, kPack<T>>, replay_relu_kernel<T, 1>, {x, y, n, slope}, bits, device.stream());
}

}  // namespace sgr::cuda
