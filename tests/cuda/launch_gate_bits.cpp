// The launchers of recorded gates behind a C interface, on the machine of shim/.
#include "gate_bits/kernel.cuh"
#include "launch.h"

struct Elements {
  int dtype;
  const void* x;
  void* y;
  int64_t n;
  double slope;
};

template <typename T>
static Gated<T> gated(const Elements& in) {
  return {static_cast<const T*>(in.x), static_cast<T*>(in.y), in.n, in.slope};
}

extern "C" {

int record_relu(const Elements* in, uint8_t* bits) {
  return dispatch(in->dtype, [&](auto type) {
    return launch_record_relu(gated<decltype(type)>(*in), bits, nullptr);
  });
}

int replay_relu(const Elements* in, const uint8_t* bits) {
  return dispatch(in->dtype, [&](auto type) {
    return launch_replay_relu(gated<decltype(type)>(*in), bits, nullptr);
  });
}

}  // extern "C"
