// Torch's thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <exception>
#include <mutex>

namespace sgr::cpu {

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

// f(begin, end) for stretches of at least `grain` numbers of a range, side by side. The first exception is thrown once
// all are done: on its way through torch it would leave the library, see errors.h.
template <typename F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  std::exception_ptr first;
  std::mutex mutex;
  torch::stable::parallel_for(begin, end, grain, [&](int64_t from, int64_t to) {
    try {
      f(from, to);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (first == nullptr) first = std::current_exception();
    }
  });
  if (first != nullptr) std::rethrow_exception(first);
}

}  // namespace sgr::cpu
