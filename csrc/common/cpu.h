// The CPU as a Device of tensors.h.
#pragma once

#include "common/half_types.h"
#include "common/tensors.h"

namespace sgr::cpu {

struct Device {
  using BFloat16 = cpu::BFloat16;
  using Float16 = cpu::Float16;
  static constexpr const char* kName = "CPU";
  static bool holds(const Tensor& tensor, const Tensor&) { return tensor.is_cpu(); }

  explicit Device(const Tensor&) {}
};

}  // namespace sgr::cpu
