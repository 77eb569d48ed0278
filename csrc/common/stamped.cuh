// Numbers that blocks hand to each other through global memory that nobody has cleared.
//
// A number is stored with a copy of its bits that is xored with a stamp. Whoever finds the two apart by the stamp has
// the number, in whatever order the writes arrive: half of an older number beside half of a newer one passes only where
// both are the same number. So a block posts and goes on, without a fence, an atomic operation or a launch that clears
// memory. What lies there at first passes with a chance of 2^-64 if stamps are random. A captured launch runs with the
// same stamp again and again: the last reader wipes.
#pragma once

#include <atomic>
#include <cstdint>
#include <random>

#include "common/reduce.cuh"

namespace sgr::cuda {

struct Stamped {
  uint64_t bits, check;
};

// A stamp for a launch: it and its next 2^32 successors serve no other launch, but by chance.
inline uint64_t new_stamp() {
  static std::atomic<uint64_t> count{uint64_t{std::random_device{}()} << 32 | std::random_device{}()};
  uint64_t x = count.fetch_add(0x9e3779b97f4a7c15);  // splitmix64
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

__device__ inline void post(Stamped* to, double value, uint64_t stamp) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof(bits));
  volatile Stamped* slot = to;
  slot->bits = bits;
  slot->check = bits ^ stamp;
}

// Waits for `count` numbers.
template <int count>
__device__ inline void collect(const Stamped* from, uint64_t stamp, double (&value)[count]) {
  for (;;) {
    bool complete = true;
#pragma unroll
    for (int k = 0; k < count; ++k) {  // all are on their way before the first is looked at
      const volatile Stamped* slot = from + k;
      const uint64_t bits = slot->bits, check = slot->check;
      complete = complete && (bits ^ check) == stamp;
      memcpy(value + k, &bits, sizeof(bits));
    }
    if (complete) return;
    __nanosleep(20);
  }
}

// The blocks of a grid in teams of `parts`, which lie side by side; all of a team run at the same time.
struct Team {
  int parts;
  Stamped* slots;  // (2, parts, kMaxSums) of this team: it may not yet have read the last sums when the next are posted
  uint64_t stamp;  // of the last sum

  // Replaces block sums, equal in all threads of a block, by their sum over the team.
  template <int count>
  __device__ void sum(double (&value)[count]) {
    static_assert(count <= kMaxSums);
    if (parts == 1) return;
    ++stamp;
    Stamped* sums = slots + stamp % 2 * parts * kMaxSums;
    if (threadIdx.x == 0) {
#pragma unroll
      for (int k = 0; k < count; ++k) post(sums + blockIdx.x % parts * kMaxSums + k, value[k], stamp);
    }
#pragma unroll
    for (int k = 0; k < count; ++k) value[k] = 0.0;
    for (int part = threadIdx.x; part < parts; part += blockDim.x) {
      double theirs[count];
      collect(sums + part * kMaxSums, stamp, theirs);
#pragma unroll
      for (int k = 0; k < count; ++k) value[k] += theirs[k];
    }
    block_sum(value);
  }
};

// Memory of a grid of `blocks` that adds up rows in teams, and then one number of each block. It need not be cleared.
struct Mail {
  Stamped* numbers;  // (blocks)
  Stamped* slots;    // (teams, 2, parts, kMaxSums)
  uint64_t stamp;

  static constexpr int kSlots = 1 + 2 * kMaxSums;  // for a block
  static int64_t doubles(int64_t blocks) { return blocks * kSlots * sizeof(Stamped) / sizeof(double); }

  Mail(double* memory, int64_t blocks, uint64_t stamp)
      : numbers(reinterpret_cast<Stamped*>(memory)), slots(numbers + blocks), stamp(stamp) {}

  __device__ Team team(int parts) const {
    return {parts, slots + int64_t{blockIdx.x} / parts * parts * 2 * kMaxSums, stamp};
  }

  // Thread 0 of every block posts, after its last sum over the team.
  __device__ void post_number(double value) const { post(numbers + blockIdx.x, value, stamp); }

  // *out = the sum of the numbers, by all threads of one block. All blocks have then read their sums: leaves nothing
  // behind that a launch with the same stamp could take for its own.
  template <typename Out>
  __device__ void sum_numbers(Out* out) const {
    double sum[1] = {0.0};
    for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
      double number[1];
      collect(numbers + block, stamp, number);
      sum[0] += number[0];
    }
    block_sum(sum);
    if (threadIdx.x == 0) *out = static_cast<Out>(sum[0]);
    for (unsigned slot = threadIdx.x; slot < gridDim.x * kSlots; slot += blockDim.x) numbers[slot] = {0, 0};
  }
};

}  // namespace sgr::cuda
