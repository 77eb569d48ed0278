// A CUDA device on the CPU, slow but exact about who may run ahead of whom. Every CUDA thread is a fiber that runs until
// it reaches a barrier or a shuffle; who goes on then is up to the schedule.
//
// What it finds: missing barriers (results differ between schedules), reads of shared memory that nobody wrote (it is
// filled with NaN) or whose copy nobody waited for, writes past the end of shared memory, barriers that some threads
// never reach, waiting for blocks that do not run, tickets taken without a fence, launches a device would refuse. What
// it cannot find: missing fences in general, bank conflicts, anything about time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

namespace cuda_shim {

// Forward and reverse are greedy: a warp, then a block, runs as far as it gets before the next one moves. Random lets all
// threads go on step by step, each time in another order. Starving lets the last warp of every other block go on only
// when nobody else can. Copies into shared memory end at once where the schedule is forward, and elsewhere when a thread
// waits for them.
enum Schedule { kForward, kReverse, kRandom, kStarving };

// What tests may set.
struct Device {
  int processors = 132;
  int shared_per_block = 227 * 1024;
  int shared_per_processor = 228 * 1024;
  int reserved_shared = 1024;
  int max_grid = 0x7fffffff;
  int cache = 50 << 20;  // bytes of the L2 cache
  int in_order = 0;      // do blocks start in the order of their numbers, as on every device so far?
  int schedule = kForward;
  unsigned seed = 0;
};

struct Shape {
  unsigned blocks, threads;
  size_t shared_bytes;
};

struct Barrier {
  int expected = 0, arrived = 0;
  uint64_t generation = 0;
};

struct Warp {
  Barrier barrier;
  uint64_t slots[2][32];
};

struct Block {
  unsigned index = 0;
  std::vector<unsigned char> memory;  // shared memory and a guard behind it
  unsigned char* shared = nullptr;    // aligned
  Barrier barrier;
  int any[3] = {0, 0, 0};
  std::vector<Warp> warps;
  unsigned running = 0;
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

// What a kernel can ask about the thread it runs as.
struct Thread {
  unsigned index = 0;
  Block* block = nullptr;
  unsigned shuffles = 0, votes = 0;
  bool fenced = false;
  std::vector<Copy> copies;               // not yet committed
  std::deque<std::vector<Copy>> batches;  // committed, not yet there
};

// Bytes of global memory.
struct Traffic {
  uint64_t read = 0, written = 0;
};

extern Device device;
extern Traffic traffic;           // by wide loads, copies and stores
extern Shape shape;               // of the running launch
extern std::vector<Shape> launches;
extern std::string failure;       // what went wrong in the running launch, or empty

Thread& current();
void wait(Barrier& barrier);
void sleep();
void fail(const std::string& what);
// Runs the body once for every thread of the grid. False, with `failure` set, if the machine found fault with it.
bool run(const Shape& shape, const std::function<void()>& body);

}  // namespace cuda_shim
