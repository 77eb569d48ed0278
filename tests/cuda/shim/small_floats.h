// Conversion between double and 16-bit floating point formats, rounded once, to nearest even.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace cuda_shim {

template <int exponent_bits, int mantissa_bits>
struct SmallFloat {
  static constexpr int kMinExponent = 2 - (1 << (exponent_bits - 1));
  static constexpr unsigned kInfinity = ((1u << exponent_bits) - 1) << mantissa_bits;

  static double decode(uint16_t bits) {
    const unsigned magnitude = bits & 0x7fffu, mantissa = magnitude & ((1u << mantissa_bits) - 1);
    const int exponent = static_cast<int>(magnitude >> mantissa_bits);
    double value;
    if (magnitude >= kInfinity) {
      value = magnitude > kInfinity ? NAN : INFINITY;
    } else if (exponent == 0) {
      value = std::ldexp(mantissa, kMinExponent - mantissa_bits);
    } else {
      value = std::ldexp(mantissa + (1u << mantissa_bits), exponent - 1 + kMinExponent - mantissa_bits);
    }
    return (bits & 0x8000u) != 0 ? -value : value;
  }

  static uint16_t encode(double value) {
    const unsigned sign = std::signbit(value) ? 0x8000u : 0u;
    if (std::isnan(value)) return 0x7fffu;
    if (value == 0.0) return static_cast<uint16_t>(sign);
    if (std::isinf(value)) return static_cast<uint16_t>(sign | kInfinity);
    const int exponent = std::max(std::ilogb(value), kMinExponent);
    if (exponent > -kMinExponent + 1) return static_cast<uint16_t>(sign | kInfinity);
    // The exponent field is one more for normal numbers; their leading bit adds it.
    const auto units = static_cast<unsigned>(std::nearbyint(std::ldexp(std::abs(value), mantissa_bits - exponent)));
    return static_cast<uint16_t>(sign | ((static_cast<unsigned>(exponent - kMinExponent) << mantissa_bits) + units));
  }
};

}  // namespace cuda_shim
