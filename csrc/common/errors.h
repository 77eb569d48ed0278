// Errors of operators, and how they leave the library: as text, for torch to raise.
//
// An exception of ours must not: where the C++ runtime is linked statically, torch has another one, which does not know
// it and ends the process. Messages are put together without streams, which lose numbers where two runtimes meet.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <string>

// In torch's libc10 since version 1.8, for every TORCH_CHECK of an extension, though not in the stable ABI.
namespace c10::detail {
[[noreturn]] __attribute__((weak)) void torchCheckFail(const char* function, const char* file, uint32_t line,
                                                       const char* message);
}

namespace sgr {

inline std::string text(const char* part) { return part; }
inline std::string text(int64_t part) { return std::to_string(part); }

// An error of these parts, text and integers, unless the condition holds.
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw std::runtime_error((text(parts) + ...));
}

using Boxed = void (*)(StableIValue* stack, uint64_t arguments, uint64_t results);

// Null, or what went wrong, which is kept until something does in this thread again.
template <Boxed boxed>
[[gnu::noinline]] const char* failure_of(StableIValue* stack, uint64_t arguments, uint64_t results) noexcept {
  static thread_local char message[2048];
  try {
    boxed(stack, arguments, results);
    return nullptr;
  } catch (const std::bad_alloc&) {
    return "not enough memory";
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof(message), "%s", error.what());
    return message;
  } catch (...) {
    return "unknown error";
  }
}

[[noreturn, gnu::noinline]] inline void throw_here(const char* message) { throw std::runtime_error(message); }

// The exception begins and ends in torch, with torch's runtime. This frame, which it passes, has nothing to clean up,
// and so asks nothing of ours. Should a later torch lack the function, there is only ours to throw.
template <Boxed boxed>
void guarded(StableIValue* stack, uint64_t arguments, uint64_t results) {
  const char* message = failure_of<boxed>(stack, arguments, results);
  if (message == nullptr) return;
  if (c10::detail::torchCheckFail != nullptr) c10::detail::torchCheckFail("sgr_kernels", __FILE__, __LINE__, message);
  throw_here(message);
}

}  // namespace sgr

// What m.impl() takes for an operator, in the place of TORCH_BOX.
#define SGR_BOX(operator) sgr::guarded<TORCH_BOX(operator)>
