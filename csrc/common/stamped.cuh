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

constexpr int64_t kStampedDoubles = sizeof(Stamped) / sizeof(double);

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

// What lay in some slots a moment ago.
template <int count>
struct Seen {
  Stamped slot[count];

  __device__ bool complete(uint64_t stamp) const {
    bool all = true;
#pragma unroll
    for (int k = 0; k < count; ++k) all = all && (slot[k].bits ^ slot[k].check) == stamp;
    return all;
  }
};

// Looks at the slots place(0), place(1), ...: all reads are on their way before the first is used.
template <int count, typename Place>
__device__ inline Seen<count> look(const Place& place) {
  Seen<count> seen;
#pragma unroll
  for (int k = 0; k < count; ++k) {
    const volatile Stamped* slot = place(k);
    seen.slot[k].bits = slot->bits;
    seen.slot[k].check = slot->check;
  }
  return seen;
}

// Waits for the numbers in the slots place(0), place(1), ...
template <int count, typename Place>
__device__ inline void collect(const Place& place, uint64_t stamp, double (&value)[count]) {
  Seen<count> seen = look<count>(place);
  while (!seen.complete(stamp)) {
    __nanosleep(20);
    seen = look<count>(place);
  }
#pragma unroll
  for (int k = 0; k < count; ++k) memcpy(value + k, &seen.slot[k].bits, sizeof(value[k]));
}

// One number of each block of a grid.
struct Mail {
  Stamped* numbers;  // (blocks)
  uint64_t stamp;

  // By one thread of every block.
  __device__ void post_number(double value) const { post(numbers + blockIdx.x, value, stamp); }

  // *out = the sum of the numbers, by all threads of one block that has posted its own. Wipes them.
  template <typename Out>
  __device__ void sum_numbers(Out* out) const {
    constexpr int batch = 8;  // one after the other they would cost a round trip to memory each
    double sum[1] = {0.0};
    for (unsigned first = threadIdx.x; first < gridDim.x; first += batch * blockDim.x) {
      const auto place = [=](int k) {
        const unsigned block = first + k * blockDim.x;
        return numbers + (block < gridDim.x ? block : first);
      };
      double number[batch];
      collect(place, stamp, number);
      for (int k = 0; k < batch; ++k) {
        if (first + k * blockDim.x >= gridDim.x) break;
        sum[0] += number[k];
        *place(k) = {0, 0};
      }
    }
    block_sum(sum);
    if (threadIdx.x == 0) *out = static_cast<Out>(sum[0]);
  }
};

}  // namespace sgr::cuda
