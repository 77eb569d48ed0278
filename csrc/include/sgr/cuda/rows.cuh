// Reading and writing rows: packs of 16 bytes where the pointers allow it, single elements elsewhere.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace sgr::cuda {

// Two matrices of the same shape with unit stride along the rows; the row strides (in elements) are free.
template <typename T>
struct Rows {
  const T* delta;
  const T* target;
  int64_t rows, cols, delta_stride, target_stride;
};

// Dtype of the loss and of the residual.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline double to_double(double x) { return x; }
__device__ inline double to_double(float x) { return x; }
__device__ inline double to_double(__half x) { return __half2float(x); }
__device__ inline double to_double(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline void from_double(double x, double* result) { *result = x; }
__device__ inline void from_double(double x, float* result) { *result = static_cast<float>(x); }
__device__ inline void from_double(double x, __half* result) { *result = __double2half(x); }
__device__ inline void from_double(double x, __nv_bfloat16* result) { *result = __double2bfloat16(x); }

// Elements in a pack of 16 bytes.
template <typename T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

template <typename T, int width>
struct Pack {
  T value[width];
};

// What one memory instruction moves.
template <int bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};
template <typename T, int width>
using WordOf = typename Word<(sizeof(T) * width < 16 ? sizeof(T) * width : 16)>::type;

// Global memory that nobody writes while the kernel runs.
template <typename T, int width>
__device__ inline Pack<T, width> load_global(const T* from) {
  const auto word = __ldg(reinterpret_cast<const WordOf<T, width>*>(from));
  Pack<T, width> pack;
  memcpy(&pack, &word, sizeof(pack));
  return pack;
}

// A pack of 8 floats takes two words. The compiler would cut a plain assignment into single elements.
template <typename T, int width>
__device__ inline void store_global(T* to, const Pack<T, width>& pack) {
  using W = WordOf<T, width>;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(pack) / sizeof(W)); ++i) {
    W word;
    memcpy(&word, pack.value + i * (sizeof(W) / sizeof(T)), sizeof(word));
    __stwb(reinterpret_cast<W*>(to) + i, word);
  }
}

// The same stretch of both rows.
template <typename T, int width>
struct Pair {
  Pack<T, width> delta, target;
};

template <typename T>
struct RowReader {
  const T* delta;
  const T* target;

  template <int width>
  __device__ Pair<T, width> read(int offset) const {
    return {load_global<T, width>(delta + offset), load_global<T, width>(target + offset)};
  }
};

// `length` elements: `head` single ones, then `packs` packs, then the rest one by one.
struct Span {
  int length, head, packs;
};

// Packs start where all pointers are aligned. Where they are not at the same time, there are no packs.
template <typename T, typename Out>
__device__ inline Span align(const RowReader<T>& in, const Out* out, int length) {
  constexpr int width = kPack<T>;
  const auto past = [](const T* p) { return static_cast<int>(reinterpret_cast<uintptr_t>(p) / sizeof(T) % width); };
  const int head = (width - past(in.delta)) % width;
  const bool together =
      past(in.delta) == past(in.target) && reinterpret_cast<uintptr_t>(out + head) % 16 == 0 && head < length;
  return together ? Span{length, head, (length - head) / width} : Span{length, length, 0};
}

// use(offset, pair) for `count` packs dealt out to the threads of the block, the i-th at place(i). Several are read before
// the first is used: bytes in flight are what keeps the memory busy.
template <int width, typename Reader, typename Place, typename Use>
__device__ __forceinline__ void sweep_packs(const Reader& reader, int count, const Place& place, const Use& use) {
  constexpr int batch = 2;
  const int step = static_cast<int>(blockDim.x);
  int i = static_cast<int>(threadIdx.x);
  for (; i + (batch - 1) * step < count; i += batch * step) {
    decltype(reader.template read<width>(0)) pairs[batch];
#pragma unroll
    for (int k = 0; k < batch; ++k) pairs[k] = reader.template read<width>(place(i + k * step));
#pragma unroll
    for (int k = 0; k < batch; ++k) use(place(i + k * step), pairs[k]);
  }
  for (; i < count; i += step) use(place(i), reader.template read<width>(place(i)));
}

// use(offset, pair) for everything in the span. Equal spans are dealt out to the threads in the same way.
template <typename T, typename Reader, typename Use>
__device__ __forceinline__ void sweep(const Span& span, const Reader& reader, const Use& use) {
  constexpr int width = kPack<T>;
  const int head = span.head, packed = span.packs * width;
  const auto pack_place = [=](int i) { return head + i * width; };
  const auto single_place = [=](int i) { return i < head ? i : i + packed; };
  sweep_packs<width>(reader, span.packs, pack_place, use);
  sweep_packs<1>(reader, span.length - packed, single_place, use);
}

}  // namespace sgr::cuda
