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
  bool cooperative;                            // can blocks wait for each other?

  // Bytes for a block if `blocks` of them share a processor.
  int64_t room(int blocks) const { return std::min(shared_per_processor / blocks - reserved, shared_per_block); }
};

// `parts` blocks share a row, `slice` elements each; parts = 0: rows do not fit on chip.
struct OnChip {
  int parts;
  int64_t slice;
  int64_t blocks;
  int threads;
  size_t shared_bytes;
};

constexpr int64_t kSliceUnit = 64;       // slices are multiples of it: keeps the second row of a slice aligned
constexpr int64_t kSmallestSlice = 4096;  // less is not worth a block of its own

template <typename T>
int64_t bytes_of_slice(int64_t slice) {
  return sizeof(Scratch) + 2 * slice * sizeof(T);
}

// Three blocks on a processor are what the registers allow; two are enough for one to read or write while the other
// waits.
//
// A row goes to one block where that leaves room for a second one. If there are no more rows than processors there
// is nothing to take turns with, and one block may have all of a processor. Other rows are shared by the fewest blocks
// that leave three on a processor; by more, if there are not enough rows for all processors. Float32 on an H100 (132
// processors, 227 KiB a block): one block up to 14,000 elements, 200,704 take 22 blocks each and 18 rows are under way,
// 802,816 take 85, 4 rows; the longest that fit have 3.7 million.
template <typename T>
OnChip plan_on_chip(int64_t rows, int64_t cols, const Chip& chip) {
  const auto round_up = [](int64_t n) { return ceil_div(n, kSliceUnit) * kSliceUnit; };
  const auto plan = [&](int64_t parts, int64_t slice, int64_t teams) {
    const size_t bytes = bytes_of_slice<T>(slice);
    return OnChip{static_cast<int>(parts), slice, teams * parts, threads_for<T>(slice), bytes};
  };
  const int64_t whole = bytes_of_slice<T>(round_up(cols));
  if (whole <= chip.room(rows <= chip.processors ? 1 : 2)) {
    const int64_t by_shared = chip.shared_per_processor / (whole + chip.reserved);
    const int64_t by_threads = kMinBlocks * kMaxThreads / threads_for<T>(round_up(cols));
    return plan(1, round_up(cols), std::min(rows, chip.processors * std::min(by_shared, by_threads)));
  }
  const int64_t slots = int64_t{chip.processors} * kMinBlocks;
  const int64_t room = chip.room(kMinBlocks) - static_cast<int64_t>(sizeof(Scratch));
  const int64_t longest = room / static_cast<int64_t>(2 * sizeof(T)) / kSliceUnit * kSliceUnit;
  if (chip.cooperative && longest > 0 && ceil_div(cols, longest) <= slots) {
    const int64_t wanted = std::max(ceil_div(cols, longest), std::min(slots / rows, cols / kSmallestSlice));
    const int64_t slice = round_up(ceil_div(cols, wanted)), parts = ceil_div(cols, slice);
    return plan(parts, slice, std::min(rows, slots / parts));
  }
  if (whole <= chip.room(1)) return plan(1, round_up(cols), std::min<int64_t>(rows, chip.processors));
  return {};
}

}  // namespace sgr::cuda
