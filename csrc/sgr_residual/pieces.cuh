// Rows too long for one block, cut into pieces that all blocks of the chip work through in order, step by step.
//
// In a step a block adds up one piece, which it began to copy into shared memory kAhead steps before, and writes v of
// the one it added up `lag` steps before. In between all blocks have added up the row, and the sums have found their
// way through global memory, without anyone having waited. All blocks read and write at all times.
//
// Progress: all blocks run at the same time (a cooperative launch). In every step a block first posts its sums; then,
// if it had the last piece of a row in the step before, it waits for sums that others post before this step; and then
// for coefficients that others post in this step or before. So the block that is furthest behind is never held up.
#pragma once

#include "common/stamped.cuh"
#include "sgr_loss/kernel.cuh"
#include "sgr_residual/plan.cuh"
#include "sgr_residual/row_cache.cuh"
#include "sgr_shift/kernel.cuh"

namespace sgr::cuda {

constexpr int kCoefs = 2;  // alpha, beta

// What the blocks post. It need not be cleared.
struct PieceMail {
  Mail mail;
  Stamped* coefs;     // (rows, kCoefs)
  Stamped* partials;  // (rows, pieces, kMaxSums)

  static int64_t doubles(int64_t blocks, int64_t rows, int64_t pieces) {
    return (blocks + rows * (kCoefs + pieces * kMaxSums)) * kStampedDoubles;
  }
  PieceMail(double* memory, int64_t blocks, int64_t rows, uint64_t stamp)
      : mail{reinterpret_cast<Stamped*>(memory), stamp},
        coefs(mail.numbers + blocks),
        partials(coefs + rows * kCoefs) {}

  // sums = those of a row from those of its pieces, in all threads of the block. Wipes what it has read.
  __device__ void sum_pieces(int64_t row, int pieces, double (&sums)[3]) const {
#pragma unroll
    for (int k = 0; k < 3; ++k) sums[k] = 0.0;
    for (int piece = threadIdx.x; piece < pieces; piece += blockDim.x) {
      const auto place = [=](int k) { return partials + (row * pieces + piece) * kMaxSums + k; };
      double part[3];
      collect(place, mail.stamp, look<3>(place), part);
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        sums[k] += part[k];
        *place(k) = {0, 0};
      }
    }
    block_sum(sums);
  }

  __device__ Stamped* coefs_of(int64_t row) const { return coefs + row * kCoefs; }
};

// loss: one number. v: (rows, cols) contiguous. Rows are normalised by their products: not for float64, see row_math.h.
template <typename T, bool normalize>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_residual_pieces_kernel(RowSet<T, 2> in, Options options, PieceMail post_box, int pieces, int slice, int lag,
                               Wide<T>* loss, Wide<T>* v) {
  constexpr Sums kind = kFirstSums<T, normalize>;
  static_assert(kind != Sums::kNorms);
  const uint64_t stamp = post_box.mail.stamp;
  const unsigned items = static_cast<unsigned>(in.rows()) * pieces;
  const int slots = kAhead + 1 + lag;
  const int steps = static_cast<int>((items - blockIdx.x + gridDim.x - 1) / gridDim.x);
  const auto item_of = [=](int step) { return blockIdx.x + step * gridDim.x; };
  const auto row_of = [=](int step) -> int64_t { return item_of(step) / pieces; };
  const auto with_piece = [&](int step, const auto& use) {
    const unsigned item = item_of(step);
    const int64_t row = item / pieces, begin = int64_t{item % pieces} * slice;
    const int length = static_cast<int>(in.cols() - begin < slice ? in.cols() - begin : slice);
    Wide<T>* to = v + row * in.cols() + begin;
    const auto from = reader_at(in, row, begin);
    const Span span = align(length, from, to);
    use(RowCache<T>(span, reinterpret_cast<T*>(shared_data()) + step % slots * 2 * slice, slice), span, from, to);
  };
  double block_loss = 0.0;
#pragma unroll 1
  for (int step = -kAhead; step < steps + lag; ++step) {
    const int due = step - lag;  // its v is written
    const auto coef_place = [&](int k) { return post_box.coefs_of(row_of(due < 0 ? 0 : due)) + k; };
    const Seen<kCoefs> seen = look<kCoefs>(coef_place);  // it is there when it is needed
    if (step >= 0 && step < steps) {
      double sums[3] = {0.0, 0.0, 0.0};
      __pipeline_wait_prior(kAhead - 1);  // later ones may still be on their way
      with_piece(step, [&](const auto& cache, const Span& span, const auto&, auto*) {
        sweep<T>(span, cache, [&](int, const auto& pair) { add_pair<kind>(pair, 1.0, 1.0, sums); });
      });
      block_sum(sums);  // all threads have read the piece whose place the next copy takes
      if (threadIdx.x == 0) {
#pragma unroll
        for (int k = 0; k < kMaxSums; ++k)
          post(post_box.partials + int64_t{item_of(step)} * kMaxSums + k, sums[k], stamp);
      }
    }
    if (step + kAhead < steps) {
      with_piece(step + kAhead, [](const auto& cache, const Span& span, const auto& from, auto*) {
        cache.copy_part(span, 0, 1, from);
      });
    }
    __pipeline_commit();  // one group a step, whether there is something in it or not
    if (step >= 1 && step <= steps && item_of(step - 1) % pieces == pieces - 1) {
      const int64_t row = row_of(step - 1);
      double sums[3];
      post_box.sum_pieces(row, pieces, sums);
      const RowCoef coef = finish_row<T>(sums, normalize, options);
      block_loss += coef.loss;
      if (threadIdx.x == 0) {
        post(post_box.coefs_of(row), coef.alpha, stamp);
        post(post_box.coefs_of(row) + 1, coef.beta, stamp);
      }
    }
    if (due >= 0) {
      double coef[kCoefs];
      collect(coef_place, stamp, seen, coef);
      const bool dead = coef[0] == 0.0 && coef[1] == 0.0;
      with_piece(due, [&](const auto& cache, const Span& span, const auto&, auto* to) {
        sweep<T>(span, cache, [&](int offset, const auto& pair) {
          store_global(to + offset, combine_pack<Wide<T>>(pair, coef[0], coef[1], dead));
        });
      });
    }
  }
  __syncthreads();  // all threads have read all coefficients
  if (threadIdx.x == 0) post_box.mail.post_number(block_loss);
  if (blockIdx.x != gridDim.x - 1) return;
  post_box.mail.sum_numbers(loss);  // so nobody reads coefficients any more
  __syncthreads();
  for (int64_t i = threadIdx.x; i < in.rows() * kCoefs; i += blockDim.x) post_box.coefs[i] = {0, 0};
}

}  // namespace sgr::cuda
