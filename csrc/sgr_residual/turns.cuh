// Rows too long for one block: read from memory once, and once more from the L2 cache.
//
// A block has one piece of one row: it adds it up, or it writes its v. The first blocks add up `ahead` rows. Then come by
// turns those that add up a row, and those that write v of the one that is `ahead` rows before it, and whose pieces are
// still in the cache; in the end v of the last rows. What is read for the last time, and v, give way in the cache first.
//
// Progress: blocks start in the order of their numbers, as CUB's scans take for granted too, and each waits for none but
// those before it.
#pragma once

#include "sgr_loss/kernel.cuh"
#include "sgr_shift/kernel.cuh"

namespace sgr::cuda {

// On an H100 longer pieces fill the cache with what is under way, and shorter ones cost more than they read.
constexpr int64_t kPieceBytes = 16384;  // of each input

// A row is cut into `pieces` of `slice` elements each.
struct Turns {
  int pieces, slice;
  int64_t rows, ahead;

  int64_t blocks() const { return 2 * rows * pieces; }
};

// cache: bytes of the L2 cache. Rows of two sevenths of it lie between the two times that one is read: less, and v waits
// for sums; more, and the first rows are gone. An H100 loses 4% with a fifth, 20% with a third.
template <typename T>
Turns plan_turns(int64_t rows, int64_t cols, int64_t cache) {
  constexpr int64_t slice = kPieceBytes / static_cast<int64_t>(sizeof(T));
  const int64_t row_bytes = 2 * cols * static_cast<int64_t>(sizeof(T)), between = cache * 2 / 7;
  const int64_t ahead = std::clamp<int64_t>((between + row_bytes / 2) / row_bytes, 1, rows);
  return {static_cast<int>(ceil_div(cols, slice)), static_cast<int>(slice), rows, ahead};
}

struct Turn {
  bool summing;
  int64_t row, piece;
};

// What the block of this number does.
SGR_HOST_DEVICE inline Turn turn_of(int64_t block, const Turns& turns) {
  const int64_t step = block / turns.pieces, piece = block % turns.pieces;
  if (step < turns.ahead) return {true, step, piece};
  const int64_t by_turns = step - turns.ahead, both = turns.rows - turns.ahead;
  if (by_turns >= 2 * both) return {false, step - turns.rows, piece};
  const bool summing = by_turns % 2 == 0;
  return {summing, by_turns / 2 + (summing ? turns.ahead : 0), piece};
}

// loss: one number. v: (rows, cols) contiguous. Rows are normalised by their products: not for float64, see row_math.h.
template <typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_residual_turns_kernel(RowSet<T, 2> in, Options options, Workspace work, Turns turns, Wide<T>* loss,
                              Wide<T>* v) {
  constexpr Sums kind = kFirstSums<T, normalize>;
  static_assert(kind != Sums::kNorms);
  const Turn turn = turn_of(blockIdx.x, turns);
  const int64_t begin = turn.piece * turns.slice, left = in.cols() - begin;
  const int length = static_cast<int>(left < turns.slice ? left : turns.slice);
  const auto reader = reader_at(in, turn.row, begin);
  Wide<T>* to = v + turn.row * in.cols() + begin;
  double* alpha = work.coef + turn.row;
  double* beta = alpha + in.rows();
  volatile unsigned* ticket = work.sums.tickets + 1 + turn.row;
  const unsigned finished = static_cast<unsigned>(turns.pieces) + 1;  // pieces, and the row itself
  if (turn.summing) {
    double sums[3] = {0.0, 0.0, 0.0};
    sweep<T>(align(length, reader, to), reader,
             [&](int, const auto& pair) { add_pair<kind>(pair, 1.0, 1.0, sums); });
    if (!row_sum(sums, turn.row, turn.piece, turns.pieces, work.sums)) return;
    if (threadIdx.x == 0) {
      const RowCoef coef = finish_row<T>(sums, normalize, options);
      *alpha = coef.alpha;
      *beta = coef.beta;
      work.row_loss[turn.row] = coef.loss;
      __threadfence();
      *ticket = finished;
    }
    if (last_to_arrive(work.sums.tickets, static_cast<unsigned>(in.rows())))
      sum_numbers(work.row_loss, in.rows(), loss);
    return;
  }
  if (threadIdx.x == 0) {
    while (*ticket != finished) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
  const double a = load_fresh(alpha), b = load_fresh(beta);
  const bool dead = a == 0.0 && b == 0.0;
  sweep<T>(align(length, reader, to), reader.last_time(), [&](int offset, const auto& pair) {
    store_streaming(to + offset, combine_pack<Wide<T>>(pair, a, b, dead));
  });
}

}  // namespace sgr::cuda
