// How rows are spread over the blocks of a chip so that they stay in shared memory. Arithmetic alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/launch.cuh"

namespace sgr::cuda {

struct Chip {
  int processors;
  int shared_per_processor, shared_per_block;  // bytes; the largest block leaves others no room
  int reserved;                                // bytes that each block takes besides its own

  // Bytes for a block if `blocks` of them share a processor.
  int64_t room(int blocks) const { return std::min(shared_per_processor / blocks - reserved, shared_per_block); }
};

// A block has one row after another to itself; blocks = 0: rows do not fit, or better take other kernels.
struct OnChip {
  int64_t slice;  // elements of a row for which there is room
  int64_t blocks;
  int threads;
  size_t shared_bytes;
};

constexpr int64_t kSliceUnit = 64;  // slices are multiples of it: keeps the second row of a slice aligned
constexpr int kFewestThreads = 64;
constexpr int kThreadsPerProcessor = kMinBlocks * kMaxThreads;

// As many rows under way on a processor as find room, with fewer threads each the more there are.
template <typename T>
OnChip plan_rows(int64_t rows, int64_t slice, int64_t bytes, const Chip& chip) {
  const int64_t by_shared = chip.shared_per_processor / (bytes + chip.reserved);
  const int64_t most = std::min<int64_t>(by_shared, kThreadsPerProcessor / kFewestThreads);
  const int64_t together = std::min(ceil_div(rows, chip.processors), most);
  const int64_t useful = ceil_div(ceil_div(slice, kPack<T>), 32) * 32;
  const int64_t share = std::clamp<int64_t>(kThreadsPerProcessor / together / 32 * 32, kFewestThreads, kMaxThreads);
  const int threads = static_cast<int>(std::clamp<int64_t>(useful, kFewestThreads, share));
  return {slice, std::min(rows, chip.processors * together), threads, static_cast<size_t>(bytes)};
}

// Float32 on an H100 (132 processors, 227 KiB a block): rows of up to 14,000 elements, or 29,000 if there are no more
// rows than processors. Whatever fits, if nothing else reads rows once.
template <typename T>
OnChip plan_on_chip(int64_t rows, int64_t cols, const Chip& chip, bool whatever_fits) {
  const int64_t slice = ceil_div(cols, kSliceUnit) * kSliceUnit;
  const int64_t bytes = static_cast<int64_t>(sizeof(Scratch) + 2 * slice * sizeof(T));
  const bool alone = whatever_fits || rows <= chip.processors;
  return bytes <= chip.room(alone ? 1 : 2) ? plan_rows<T>(rows, slice, bytes, chip) : OnChip{};
}

}  // namespace sgr::cuda
