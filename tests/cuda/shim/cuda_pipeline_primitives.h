// Copies into shared memory that a thread starts and waits for, see Schedule in machine.h.
#pragma once

#include <cuda_runtime.h>

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  if (bytes != 4 && bytes != 8 && bytes != 16) cuda_shim::fail("copy of a size that there is not");
  if (address % bytes != 0) cuda_shim::fail("misaligned access");
  cuda_shim::traffic.read += bytes;
  if (cuda_shim::device.schedule == cuda_shim::kForward) std::memcpy(to, from, bytes);
  else cuda_shim::current().copies.push_back({to, from, bytes});
}

inline void __pipeline_commit() {
  auto& thread = cuda_shim::current();
  thread.batches.push_back(std::move(thread.copies));
  thread.copies.clear();
}

inline void __pipeline_wait_prior(size_t pending) {
  auto& batches = cuda_shim::current().batches;
  for (; batches.size() > pending; batches.pop_front())
    for (const auto& copy : batches.front()) std::memcpy(copy.to, copy.from, copy.bytes);
}
