// Bits of a number, and a number of bits. Half types are their bits; compilers do not see through a bit cast of them.
#pragma once

#include "sgr/cpu/half_types.h"

namespace sgr::cpu {

SGR_ALWAYS_INLINE uint16_t to_bits(BFloat16 x) { return x.bits; }
SGR_ALWAYS_INLINE uint16_t to_bits(Float16 x) { return x.bits; }
SGR_ALWAYS_INLINE uint32_t to_bits(float x) { return bits_as<uint32_t>(x); }
SGR_ALWAYS_INLINE uint64_t to_bits(double x) { return bits_as<uint64_t>(x); }
SGR_ALWAYS_INLINE void from_bits(uint16_t bits, BFloat16* x) { x->bits = bits; }
SGR_ALWAYS_INLINE void from_bits(uint16_t bits, Float16* x) { x->bits = bits; }
SGR_ALWAYS_INLINE void from_bits(uint32_t bits, float* x) { *x = bits_as<float>(bits); }
SGR_ALWAYS_INLINE void from_bits(uint64_t bits, double* x) { *x = bits_as<double>(bits); }

}  // namespace sgr::cpu
