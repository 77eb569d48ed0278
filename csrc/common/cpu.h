// The CPU as a Device of tensors.h: its half types, and how its kernels are compiled.
#pragma once

#include "common/parallel.h"
#include "common/tensors.h"

#define SGR_ALWAYS_INLINE inline __attribute__((always_inline))

// One clone of a function for every x86-64 level, chosen when the library is loaded, or the one of SGR_CPU_LEVEL alone;
// elsewhere the baseline of the platform, and with Clang, which takes no clones of templates. No -ffast-math: NaN must
// stay NaN; only the order of the sums is free.
#ifdef SGR_CPU_LEVEL
#define SGR_CLONES __attribute__((target("arch=" SGR_CPU_LEVEL)))
#elif defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define SGR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SGR_CLONES
#endif

namespace sgr::cpu {

// Half types are bit patterns, with conversions a compiler can vectorise (no table, no branch, no library).
struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

template <typename To, typename From>
SGR_ALWAYS_INLINE To bits_as(From from) {
  return __builtin_bit_cast(To, from);
}

SGR_ALWAYS_INLINE float to_float(float x) { return x; }
SGR_ALWAYS_INLINE double to_float(double x) { return x; }
SGR_ALWAYS_INLINE float to_float(BFloat16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }

SGR_ALWAYS_INLINE float to_float(Float16 x) {
  constexpr uint32_t rebias = 112u << 23;      // exponent bias 127 of float32 less 15 of float16
  constexpr uint32_t smallest = 0x38800000u;  // 2^-14, the smallest normal float16
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  const uint32_t sign = (x.bits & 0x8000u) << 16;
  const uint32_t normal = magnitude + (magnitude >= (0x7c00u << 13) ? 2 * rebias : rebias);  // Inf and NaN stay so
  const float subnormal = bits_as<float>(magnitude + smallest) - bits_as<float>(smallest);
  const uint32_t result = magnitude < (0x0400u << 13) ? bits_as<uint32_t>(subnormal) : normal;
  return bits_as<float>(result | sign);
}

SGR_ALWAYS_INLINE void from_double(double x, double* result) { *result = x; }
SGR_ALWAYS_INLINE void from_double(double x, float* result) { *result = static_cast<float>(x); }

// Round to nearest, ties to even.
SGR_ALWAYS_INLINE void from_double(double x, BFloat16* result) {
  const float single = static_cast<float>(x);
  const uint32_t bits = bits_as<uint32_t>(single);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  result->bits = static_cast<uint16_t>(single != single ? 0x7fc0u : rounded);
}

SGR_ALWAYS_INLINE void from_double(double x, Float16* result) {
  const float single = static_cast<float>(x);
  const uint32_t all = bits_as<uint32_t>(single);
  const uint32_t sign = (all >> 16) & 0x8000u;
  const uint32_t bits = all & 0x7fffffffu;
  const uint32_t normal = (bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  // Adding 0.5 lines the last bit of a subnormal float16 up with that of a float32 in [0.5, 1): the sum rounds it.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(bits) + 0.5f) - 0x3f000000u;
  uint32_t rounded = bits < 0x38800000u ? subnormal : normal;
  rounded = bits >= 0x47800000u ? 0x7c00u : rounded;
  rounded = single != single ? 0x7e00u : rounded;
  result->bits = static_cast<uint16_t>(rounded | sign);
}

// Bits of a number, and a number of bits. Compilers do not see through a bit cast of the half types.
SGR_ALWAYS_INLINE uint16_t to_bits(BFloat16 x) { return x.bits; }
SGR_ALWAYS_INLINE uint16_t to_bits(Float16 x) { return x.bits; }
SGR_ALWAYS_INLINE uint32_t to_bits(float x) { return bits_as<uint32_t>(x); }
SGR_ALWAYS_INLINE uint64_t to_bits(double x) { return bits_as<uint64_t>(x); }
SGR_ALWAYS_INLINE void from_bits(uint16_t bits, BFloat16* x) { x->bits = bits; }
SGR_ALWAYS_INLINE void from_bits(uint16_t bits, Float16* x) { x->bits = bits; }
SGR_ALWAYS_INLINE void from_bits(uint32_t bits, float* x) { *x = bits_as<float>(bits); }
SGR_ALWAYS_INLINE void from_bits(uint64_t bits, double* x) { *x = bits_as<double>(bits); }

struct Device {
  using BFloat16 = cpu::BFloat16;
  using Float16 = cpu::Float16;
  static constexpr const char* kName = "CPU";
  static bool holds(const Tensor& tensor, const Tensor&) { return tensor.is_cpu(); }

  explicit Device(const Tensor&) {}
};

}  // namespace sgr::cpu
