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

// A row is cut into `pieces` of `slice` elements each; pieces = 0: rows do not fit on chip.
struct OnChip {
  int pieces;
  int64_t slice;
  int64_t blocks;
  int threads;
  size_t shared_bytes;
  int lag;  // steps between the sums of a piece and its v; see pieces.cuh
};

constexpr int64_t kSliceUnit = 64;  // slices are multiples of it: keeps the second row of a slice aligned
constexpr int kFewestThreads = 64;
constexpr int kThreadsPerProcessor = kMinBlocks * kMaxThreads;

// Of rows in pieces. A step is as short as leaves little to be gained by longer ones, and the copies of two of them
// keep memory busy.
constexpr int64_t kPieceBytes = 8192, kSmallestPieceBytes = 2048;  // of each input
constexpr int kPieceBlocks = 2;                                    // on a processor
constexpr int kAhead = 2;                                          // steps from the copy of a piece to its sums

template <typename T>
int64_t bytes_of_slice(int64_t slice) {
  return sizeof(Scratch) + 2 * slice * sizeof(T);
}

// One block a row, as many rows under way on a processor as find room, with fewer threads each the more there are.
template <typename T>
OnChip plan_rows(int64_t rows, int64_t slice, const Chip& chip) {
  const int64_t bytes = bytes_of_slice<T>(slice);
  const int64_t by_shared = chip.shared_per_processor / (bytes + chip.reserved);
  const int64_t most = std::min<int64_t>(by_shared, kThreadsPerProcessor / kFewestThreads);
  const int64_t together = std::min(ceil_div(rows, chip.processors), most);
  const int64_t useful = ceil_div(ceil_div(slice, kPack<T>), 32) * 32;
  const int64_t share = std::clamp<int64_t>(kThreadsPerProcessor / together / 32 * 32, kFewestThreads, kMaxThreads);
  const int threads = static_cast<int>(std::clamp<int64_t>(useful, kFewestThreads, share));
  return {1, slice, std::min(rows, chip.processors * together), threads, static_cast<size_t>(bytes), 0};
}

// All blocks share the rows. A piece stays on chip until all pieces of its row have been summed: (pieces - 1) / blocks
// steps, rounded up, and one more for adding up the row.
template <typename T>
OnChip plan_pieces(int64_t rows, int64_t cols, const Chip& chip) {
  const int64_t room = chip.room(kPieceBlocks) - static_cast<int64_t>(sizeof(Scratch));
  for (int64_t bytes = kPieceBytes; bytes >= kSmallestPieceBytes; bytes /= 2) {
    const int64_t slice = bytes / static_cast<int64_t>(sizeof(T)), pieces = ceil_div(cols, slice);
    const int64_t blocks = std::min(rows * pieces, int64_t{chip.processors} * kPieceBlocks);
    const int64_t slots = room / (2 * bytes), lag = slots - 1 - kAhead;
    if (lag < ceil_div(pieces - 1, blocks) + 1) continue;
    const size_t shared_bytes = sizeof(Scratch) + slots * 2 * bytes;
    return {static_cast<int>(pieces), slice, blocks, kMaxThreads, shared_bytes, static_cast<int>(lag)};
  }
  return {};
}

// A row goes to one block where that leaves room for a second one, or if there are no more rows than processors.
// Float32 on an H100 (132 processors, 227 KiB a block): one block up to 14,000 elements; 200,704 are 98 pieces, 802,816
// are 392; the longest that fit have 3.2 million.
template <typename T>
OnChip plan_on_chip(int64_t rows, int64_t cols, const Chip& chip) {
  const int64_t slice = ceil_div(cols, kSliceUnit) * kSliceUnit, whole = bytes_of_slice<T>(slice);
  if (whole <= chip.room(rows <= chip.processors ? 1 : 2)) return plan_rows<T>(rows, slice, chip);
  const OnChip plan = chip.cooperative ? plan_pieces<T>(rows, cols, chip) : OnChip{};
  return plan.pieces == 0 && whole <= chip.room(1) ? plan_rows<T>(rows, slice, chip) : plan;
}

}  // namespace sgr::cuda
