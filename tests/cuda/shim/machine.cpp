#include "machine.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

namespace cuda_shim {

Device device;
Traffic traffic;
Shape shape;
std::vector<Shape> launches;
std::string failure;

namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kGuardBytes = 4096;
constexpr unsigned char kFill = 0xff;   // as floating point: NaN
constexpr unsigned char kGuard = 0xa5;
constexpr size_t kResidentBlocks = 2;  // run side by side, unless all of a grid do
constexpr int kPatience = 100;         // turns in which threads wake and find nothing

struct Fiber {
  Thread thread;
  Barrier* barrier = nullptr;  // it waits while this is in the same generation
  uint64_t generation = 0;
  bool done = false;
  bool asleep = false;
  bool started = false;
  jmp_buf context;
  void* stack = nullptr;

  ~Fiber() {
    if (stack != nullptr) munmap(stack, kStackBytes);
  }
};

std::vector<std::unique_ptr<Fiber>> idle;
Fiber* running = nullptr;
jmp_buf scheduler;
const std::function<void()>* kernel = nullptr;

// _setjmp and _longjmp do not touch the signal mask: a switch costs no system call.
__attribute__((noinline)) void switch_context(jmp_buf from, jmp_buf to) {
  if (_setjmp(from) == 0) _longjmp(to, 1);
}

// A fiber outlives its thread and is used again for another.
void fiber_main() {
  for (;;) {
    (*kernel)();
    running->done = true;
    switch_context(running->context, scheduler);
  }
}

void resume(Fiber& fiber) {
  running = &fiber;
  if (fiber.started) {
    switch_context(scheduler, fiber.context);
    return;
  }
  fiber.started = true;
  fiber.stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ucontext_t start;
  getcontext(&start);
  start.uc_stack.ss_sp = fiber.stack;
  start.uc_stack.ss_size = kStackBytes;
  start.uc_link = nullptr;
  makecontext(&start, fiber_main, 0);
  if (_setjmp(scheduler) == 0) setcontext(&start);
}

std::unique_ptr<Fiber> take_fiber() {
  if (idle.empty()) return std::make_unique<Fiber>();
  auto fiber = std::move(idle.back());
  idle.pop_back();
  return fiber;
}

struct Resident {
  Block block;
  std::vector<std::unique_ptr<Fiber>> fibers;
};

std::unique_ptr<Resident> start_block(unsigned index) {
  auto resident = std::make_unique<Resident>();
  Block& block = resident->block;
  block.index = index;
  block.memory.assign(shape.shared_bytes + kGuardBytes + 16, kFill);
  block.shared = block.memory.data() + (16 - reinterpret_cast<uintptr_t>(block.memory.data()) % 16) % 16;
  std::memset(block.shared + shape.shared_bytes, kGuard, kGuardBytes);
  block.barrier.expected = static_cast<int>(shape.threads);
  block.warps.resize(shape.threads / 32);
  for (auto& warp : block.warps) warp.barrier.expected = 32;
  block.running = shape.threads;
  for (unsigned thread = 0; thread < shape.threads; ++thread) {
    auto fiber = take_fiber();
    fiber->thread = Thread{};
    fiber->thread.index = thread;
    fiber->thread.block = &block;
    fiber->barrier = nullptr;
    fiber->done = false;
    fiber->asleep = false;
    resident->fibers.push_back(std::move(fiber));
  }
  return resident;
}

void end_block(const Block& block) {
  const unsigned char* guard = block.shared + shape.shared_bytes;
  if (std::any_of(guard, guard + kGuardBytes, [](unsigned char byte) { return byte != kGuard; }))
    fail("write past the end of shared memory");
}

template <typename T>
void arrange(std::vector<T>& items, std::mt19937& random) {
  if (device.schedule == kReverse) std::reverse(items.begin(), items.end());
  if (device.schedule == kRandom) std::shuffle(items.begin(), items.end(), random);
}

bool can_run(const Fiber& fiber) {
  return !fiber.done && (fiber.barrier == nullptr || fiber.barrier->generation != fiber.generation);
}

// One turn for every fiber that can run; false if none could, or all that could woke for nothing.
bool run_once(const std::vector<Fiber*>& fibers) {
  bool progress = false;
  for (Fiber* fiber : fibers) {
    if (!can_run(*fiber)) continue;
    const bool slept = fiber->asleep;
    fiber->barrier = nullptr;
    fiber->asleep = false;
    resume(*fiber);
    progress |= !slept || !fiber->asleep;
    if (fiber->done && --fiber->thread.block->running == 0) end_block(*fiber->thread.block);
  }
  return progress;
}

// In order, and as far as they get without the others: first each warp, then the block.
bool run_block(const std::vector<Fiber*>& fibers) {
  bool any = false;
  for (bool progress = true; progress; any |= progress) {
    progress = false;
    for (size_t first = 0; first < fibers.size(); first += 32) {
      const std::vector<Fiber*> warp(fibers.begin() + first, fibers.begin() + first + 32);
      while (run_once(warp)) progress = true;
    }
  }
  return any;
}

bool is_fed(const Fiber* fiber) {
  const Thread& thread = fiber->thread;
  return (thread.block->index + device.seed) % 2 != 0 || thread.index / 32 + 1 < shape.threads / 32;
}

bool turn(const std::vector<std::unique_ptr<Resident>>& residents, std::mt19937& random) {
  std::vector<Fiber*> fibers;
  for (const auto& resident : residents)
    for (const auto& fiber : resident->fibers) fibers.push_back(fiber.get());
  arrange(fibers, random);
  if (device.schedule == kRandom) return run_once(fibers);
  if (device.schedule == kStarving) {
    const auto starved = std::stable_partition(fibers.begin(), fibers.end(), is_fed);
    return run_once({fibers.begin(), starved}) || run_once({starved, fibers.end()});
  }
  bool progress = false;
  for (size_t first = 0; first < fibers.size(); first += shape.threads)
    progress |= run_block({fibers.begin() + first, fibers.begin() + first + shape.threads});
  return progress;
}

}  // namespace

Thread& current() { return running->thread; }

void fail(const std::string& what) {
  if (failure.empty()) failure = what;
}

void wait(Barrier& barrier) {
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  running->barrier = &barrier;
  running->generation = barrier.generation;
  switch_context(running->context, scheduler);
}

void sleep() {
  running->asleep = true;
  switch_context(running->context, scheduler);
}

bool run(const Shape& grid, const std::function<void()>& body) {
  shape = grid;
  failure.clear();
  kernel = &body;
  std::mt19937 random(device.seed);
  std::vector<unsigned> waiting(grid.blocks);
  std::iota(waiting.begin(), waiting.end(), 0u);
  if (!device.in_order) arrange(waiting, random);
  std::reverse(waiting.begin(), waiting.end());  // taken from the back
  std::vector<std::unique_ptr<Resident>> residents;
  int idle_turns = 0;
  while (!waiting.empty() || !residents.empty()) {
    while (residents.size() < kResidentBlocks && !waiting.empty()) {
      residents.push_back(start_block(waiting.back()));
      waiting.pop_back();
    }
    idle_turns = turn(residents, random) ? 0 : idle_turns + 1;
    if (idle_turns > kPatience) {
      fail("threads wait for what others never do");
      return false;  // fibers in the middle of a kernel are not used again
    }
    for (auto& resident : residents) {
      if (resident->block.running > 0) continue;
      for (auto& fiber : resident->fibers) idle.push_back(std::move(fiber));
      resident.reset();
    }
    residents.erase(std::remove(residents.begin(), residents.end(), nullptr), residents.end());
  }
  return failure.empty();
}

}  // namespace cuda_shim
