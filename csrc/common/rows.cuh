// Reading and writing rows: packs of 16 bytes where the pointers allow it, single elements elsewhere.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "common/types.h"

namespace sgr::cuda {

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

// What one memory instruction moves: 2, 4, 8 or 16 bytes.
template <int bytes>
using Word = std::conditional_t<
    bytes == 2, unsigned short,
    std::conditional_t<bytes == 4, unsigned int, std::conditional_t<bytes == 8, uint2, uint4>>>;
template <typename T, int width>
using WordOf = Word<sizeof(T) * width>;

template <typename T, int width>
__device__ inline Pack<T, width> pack_of(WordOf<T, width> word) {
  Pack<T, width> pack;
  memcpy(&pack, &word, sizeof(pack));
  return pack;
}

template <typename T, int width>
__device__ inline WordOf<T, width> word_of(const Pack<T, width>& pack) {
  WordOf<T, width> word;
  memcpy(&word, &pack, sizeof(word));
  return word;
}

// Global memory that nobody writes while the kernel runs. What is read for the last time gives way in the cache first.
template <typename T, int width, bool last = false>
__device__ inline Pack<T, width> load_global(const T* from) {
  const auto* word = reinterpret_cast<const WordOf<T, width>*>(from);
  return pack_of<T, width>(last ? __ldcs(word) : __ldg(word));
}

// store(place, word) for the words of a pack: of 8 floats there are two. The compiler would cut a plain assignment into
// single elements.
template <typename T, int width, typename Store>
__device__ __forceinline__ void store_words(T* to, const Pack<T, width>& pack, const Store& store) {
  using W = WordOf<T, width>;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(pack) / sizeof(W)); ++i) {
    W word;
    memcpy(&word, pack.value + i * (sizeof(W) / sizeof(T)), sizeof(word));
    store(reinterpret_cast<W*>(to) + i, word);
  }
}

template <typename T, int width>
__device__ __forceinline__ void store_global(T* to, const Pack<T, width>& pack) {
  store_words(to, pack, [](auto* place, auto word) { __stwb(place, word); });
}

// What gives way in the cache first.
template <typename T, int width>
__device__ __forceinline__ void store_streaming(T* to, const Pack<T, width>& pack) {
  store_words(to, pack, [](auto* place, auto word) { __stcs(place, word); });
}

// The same stretch of several rows.
template <typename T, int width, int rows>
struct Packs {
  static constexpr int kWidth = width;
  Pack<T, width> row[rows];
};

template <typename T, int rows, bool last = false>
struct RowReader {
  const T* row[rows];

  template <int width>
  __device__ Packs<T, width, rows> read(int offset) const {
    Packs<T, width, rows> packs;
#pragma unroll
    for (int i = 0; i < rows; ++i) packs.row[i] = load_global<T, width, last>(row[i] + offset);
    return packs;
  }

  __device__ RowReader<T, rows, true> last_time() const {
    RowReader<T, rows, true> reader;
#pragma unroll
    for (int i = 0; i < rows; ++i) reader.row[i] = row[i];
    return reader;
  }
};

template <typename T, int rows>
__device__ inline RowReader<T, rows> reader_at(const RowSet<T, rows>& in, int64_t row, int64_t column) {
  RowReader<T, rows> reader;
#pragma unroll
  for (int i = 0; i < rows; ++i) reader.row[i] = in[i].at(row, column);
  return reader;
}

// `length` elements: `head` single ones, then `packs` packs, then the rest one by one.
struct Span {
  int length, head, packs;

  __device__ bool operator==(const Span& other) const {
    return length == other.length && head == other.head && packs == other.packs;
  }
};

// Packs start where all rows and outputs are aligned. Where they are not at the same time, there are no packs.
template <typename T, int rows, typename... Outputs>
__device__ inline Span align(int length, const RowReader<T, rows>& in, const Outputs*... outputs) {
  constexpr int width = kPack<T>;
  const auto past = [](const T* p) { return static_cast<int>(reinterpret_cast<uintptr_t>(p) / sizeof(T) % width); };
  const int head = (width - past(in.row[0])) % width;
  bool together = ((reinterpret_cast<uintptr_t>(outputs + head) % 16 == 0) && ... && (head < length));
#pragma unroll
  for (int i = 1; i < rows; ++i) together = together && past(in.row[i]) == past(in.row[0]);
  return together ? Span{length, head, (length - head) / width} : Span{length, length, 0};
}

// use(offset, what was read) for `count` packs dealt out to the threads of the block, the i-th at place(i). Several are
// read before the first is used: bytes in flight are what keeps the memory busy.
template <int width, typename Reader, typename Place, typename Use>
__device__ __forceinline__ void sweep_packs(const Reader& reader, int count, const Place& place, const Use& use) {
  constexpr int batch = 2;
  const int step = static_cast<int>(blockDim.x);
  int i = static_cast<int>(threadIdx.x);
  for (; i + (batch - 1) * step < count; i += batch * step) {
    decltype(reader.template read<width>(0)) packs[batch];
#pragma unroll
    for (int k = 0; k < batch; ++k) packs[k] = reader.template read<width>(place(i + k * step));
#pragma unroll
    for (int k = 0; k < batch; ++k) use(place(i + k * step), packs[k]);
  }
  for (; i < count; i += step) use(place(i), reader.template read<width>(place(i)));
}

// use(offset, what was read) for one of `parts` successive parts of the span. Equal spans are dealt out to the threads in
// the same way.
template <typename T, typename Reader, typename Use>
__device__ __forceinline__ void sweep_part(const Span& span, int part, int parts, const Reader& reader,
                                           const Use& use) {
  constexpr int width = kPack<T>;
  const int head = span.head, packed = span.packs * width, threads = static_cast<int>(blockDim.x);
  const int share = (span.packs + parts * threads - 1) / (parts * threads) * threads;  // whole turns of all threads
  const int begin = part * share < span.packs ? part * share : span.packs;
  const int end = begin + share < span.packs ? begin + share : span.packs;
  const auto pack_place = [=](int i) { return head + (begin + i) * width; };
  const auto single_place = [=](int i) { return i < head ? i : i + packed; };
  sweep_packs<width>(reader, end - begin, pack_place, use);
  if (part == parts - 1) sweep_packs<1>(reader, span.length - packed, single_place, use);
}

// use(offset, what was read) for everything in the span.
template <typename T, typename Reader, typename Use>
__device__ __forceinline__ void sweep(const Span& span, const Reader& reader, const Use& use) {
  sweep_part<T>(span, 0, 1, reader, use);
}

}  // namespace sgr::cuda
