// The launchers of the gate, the shift and the cross entropy behind a C interface, on the machine of shim/.
#include "launch.h"

#include "sgr/cuda/cross_entropy.cuh"
#include "sgr/cuda/relu_backward.cuh"
#include "sgr/cuda/shift.cuh"

struct Tensors {
  int dtype;
  const void* grad;
  const void* output;
  int64_t rows, channels, size;
};

struct LogitRows {
  int dtype;
  const void* logits;
  const int64_t* labels;
  int64_t rows, cols, stride;
};

template <typename T>
static Gate<T> gate_of(const Tensors& in, void* masked) {
  return {static_cast<const T*>(in.grad), static_cast<const T*>(in.output), static_cast<T*>(masked), in.rows,
          in.channels, in.size};
}

template <typename T>
static Logits<T> logits_of(const LogitRows& in) {
  return {static_cast<const T*>(in.logits), in.labels, in.rows, in.cols, in.stride};
}

extern "C" {

int64_t relu_backward_doubles(const Tensors* in, void* masked) {
  return dispatch(in->dtype, [&](auto type) {
    return static_cast<int>(plan_gate(gate_of<decltype(type)>(*in, masked), true).doubles(in->channels));
  });
}

// Without sums, both they and partial are null.
int relu_backward(const Tensors* in, void* masked, double* partial, void* sums) {
  return dispatch(in->dtype, [&](auto type) {
    using T = decltype(type);
    const auto gate = gate_of<T>(*in, masked);
    return launch_relu_backward(gate, plan_gate(gate, sums != nullptr), partial, static_cast<Wide<T>*>(sums), nullptr);
  });
}

int shift(const Input* in, const void* x, int64_t x_stride, const double* alpha, const double* beta, double factor,
          void* out) {
  return dispatch(in->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_shift(rows_of<T>(*in), static_cast<const T*>(x), x_stride, alpha, beta, factor, static_cast<T*>(out),
                        nullptr);
  });
}

int64_t loss_doubles(int64_t rows) { return cross_entropy_doubles(rows); }

int cross_entropy(const LogitRows* in, double* memory, void* loss, void* gradient) {
  return dispatch(in->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_cross_entropy(logits_of<T>(*in), memory, static_cast<Wide<T>*>(loss), static_cast<Wide<T>*>(gradient),
                                nullptr);
  });
}

int cross_entropy_hvp(const LogitRows* in, const void* tangent, int64_t tangent_stride, void* out) {
  return dispatch(in->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_cross_entropy_hvp(logits_of<T>(*in), static_cast<const Wide<T>*>(tangent), tangent_stride,
                                    static_cast<Wide<T>*>(out), nullptr);
  });
}

}  // extern "C"
