// A CUDA device on the CPU, slow but exact about who may run ahead of whom. Every CUDA thread is a fiber that runs until
// it reaches a barrier or a shuffle; who goes on then is up to the schedule.
//
// What it finds: missing barriers (results differ between schedules), reads of shared memory that nobody wrote or whose
// block has gone (it is filled with NaN), writes past the end of shared memory, barriers that some threads never reach,
// tickets taken without a fence, launches a device would refuse. What it cannot find: missing fences in general, bank
// conflicts, anything about time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace cuda_shim {

// Forward and reverse are greedy: a warp, then a block, runs as far as it gets before the next one moves. Random lets all
// threads go on step by step, each time in another order. Starving lets the last warp of every other block go on only
// when nobody else can.
enum Schedule { kForward, kReverse, kRandom, kStarving };

// What tests may set.
struct Device {
  int capability = 90;
  int code_capability = 90;  // what the kernels were compiled for
  int shared_per_block = 227 * 1024;
  int shared_per_processor = 228 * 1024;
  int reserved_shared = 1024;
  int max_grid = 0x7fffffff;
  int largest_cluster = 16;
  int schedule = kForward;
  unsigned seed = 0;
};

struct Shape {
  unsigned blocks, threads, cluster;
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

struct Cluster;

struct Block {
  unsigned index = 0;
  Cluster* cluster = nullptr;
  std::vector<unsigned char> memory;  // shared memory and a guard behind it
  unsigned char* shared = nullptr;    // aligned
  Barrier barrier;
  int any[3] = {0, 0, 0};
  std::vector<Warp> warps;
  unsigned running = 0;
};

struct Cluster {
  std::vector<Block> blocks;
  Barrier barrier;
  unsigned running = 0;
};

// What a kernel can ask about the thread it runs as.
struct Thread {
  unsigned index = 0;
  Block* block = nullptr;
  unsigned shuffles = 0, votes = 0;
  bool fenced = false;
};

extern Device device;
extern Shape shape;               // of the running launch
extern std::vector<Shape> launches;
extern std::string failure;       // what went wrong in the running launch, or empty

Thread& current();
void wait(Barrier& barrier);
void fail(const std::string& what);
// Runs the body once for every thread of the grid. False, with `failure` set, if the machine found fault with it.
bool run(const Shape& shape, const std::function<void()>& body);

}  // namespace cuda_shim
