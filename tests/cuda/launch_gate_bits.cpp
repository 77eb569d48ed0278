// The operators of recorded gates behind a C interface, on the machine of shim/.
#include "gate_bits/kernel.cuh"
#include "launch.h"

struct Elements {
  int dtype;
  const void* x;
  void* y;
  int64_t n;
  double slope;
};

extern "C" {

int record_relu(const Elements* in, uint8_t* bits) {
  return run(in->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_record_relu(device, static_cast<const T*>(in->x), in->n, in->slope, static_cast<T*>(in->y), bits);
  });
}

int replay_relu(const Elements* in, const uint8_t* bits) {
  return run(in->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_replay_relu(device, static_cast<const T*>(in->x), bits, in->n, in->slope, static_cast<T*>(in->y));
  });
}

}  // extern "C"
