// A stretch of delta and target in shared memory, and how it gets there.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "common/reduce.cuh"
#include "common/rows.cuh"

namespace sgr::cuda {

// Starts a copy from global to shared memory. Two bytes are copied at once: there is nothing else for them.
template <typename W>
__device__ inline void start_copy(W* to, const W* from) {
  if constexpr (sizeof(W) < 4) *to = __ldg(from);
  else __pipeline_memcpy_async(to, from, sizeof(W));
}

// To be swept in the place of rows where nothing is to be read.
struct Nothing {
  template <int width>
  struct Pack {
    static constexpr int kWidth = width;
  };
  template <int width>
  __device__ Pack<width> read(int) const {
    return {};
  }
};

// Packs come first, so that they are aligned, then single elements.
template <typename T>
struct RowCache {
  T* row[2];
  int head, packed;

  // memory: (2, slice)
  __device__ RowCache(const Span& span, T* memory, int slice)
      : row{memory, memory + slice}, head(span.head), packed(span.packs * kPack<T>) {}

  template <int width>
  __device__ Packs<T, width, 2> read(int offset) const {
    return {pack_of<T, width>(*place<width>(row[0], offset)), pack_of<T, width>(*place<width>(row[1], offset))};
  }

  // Starts to copy one of `parts` parts of the span from the rows.
  __device__ __forceinline__ void copy_part(const Span& span, int part, int parts, const RowReader<T, 2>& from) const {
    sweep_part<T>(span, part, parts, Nothing{}, [&](int offset, const auto& pack) { start(from, offset, pack); });
  }

  // Starts to copy the span from the rows.
  __device__ __forceinline__ void copy(const Span& span, const RowReader<T, 2>& from) const {
    for_each_part([&](int part) {
      copy_part(span, part, kParts, from);
      __pipeline_commit();
    });
  }

  // use(offset, pair) for the whole span, a part as soon as it has arrived.
  template <typename Use>
  __device__ __forceinline__ void sweep_arriving(const Span& span, const Use& use) const {
    for_each_part([&](int part) {
      __pipeline_wait_prior(kParts - 1 - part);
      sweep_part<T>(span, part, kParts, *this, use);
    });
  }

  // use(offset, pair) for the whole span, and starts to copy an equal span of other rows into the place of what was
  // used.
  template <typename Use>
  __device__ __forceinline__ void replace(const Span& span, const RowReader<T, 2>& from, const Use& use) const {
    for_each_part([&](int part) {
      sweep_part<T>(span, part, kParts, *this, [&](int offset, const auto& pair) {
        use(offset, pair);
        start(from, offset, pair);
      });
      __pipeline_commit();
    });
  }

 private:
  static constexpr int kParts = 4;  // a span is copied in so many steps: the sums of one are formed while others arrive

  template <typename F>
  __device__ __forceinline__ static void for_each_part(const F& f) {
#pragma unroll 1
    for (int part = 0; part < kParts; ++part) f(part);
  }

  template <typename Packs>
  __device__ void start(const RowReader<T, 2>& from, int offset, const Packs&) const {
    constexpr int width = Packs::kWidth;
    using W = WordOf<T, width>;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      start_copy(place<width>(row[i], offset), reinterpret_cast<const W*>(from.row[i] + offset));
  }

  template <int width>
  __device__ WordOf<T, width>* place(T* row, int offset) const {
    if constexpr (width == 1) return reinterpret_cast<WordOf<T, 1>*>(row) + (offset < head ? offset + packed : offset);
    else return reinterpret_cast<WordOf<T, width>*>(row) + (offset - head) / width;
  }
};

}  // namespace sgr::cuda
