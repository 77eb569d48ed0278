// sgr_loss, sgr_loss_backward and sgr_residual behind a C interface, on the machine of shim/.
#include "launch_options.h"
#include "sgr_residual/kernel.cuh"

// A device that hands out its memory once more as it is.
struct SameMemory {
  TestDevice& device;
  double* memory = nullptr;

  cudaStream_t stream() const { return device.stream(); }
  double* workspace(int64_t doubles) { return memory == nullptr ? memory = device.workspace(doubles) : memory; }
};

extern "C" {

int sgr_loss(const Matrix* delta, const Matrix* target, const Settings* settings, double* coef, void* loss) {
  return run(delta->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_sgr_loss(device, row_set<T>(*delta, *target), options_of(*delta, *settings), coef,
                 static_cast<Wide<T>*>(loss));
  });
}

int sgr_loss_backward(const Matrix* delta, const Matrix* target, const void* grad_loss, const double* alpha,
                      const double* beta, void* out) {
  return run(delta->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_combine(device, row_set<T>(*delta, *target), alpha, beta,
                Number<Wide<T>>{1.0, static_cast<const Wide<T>*>(grad_loss)}, static_cast<T*>(out));
  });
}

void plan(int dtype, int64_t rows, int64_t cols, const Chip* chip, OnChip* plan) {
  *plan = dispatch(dtype, [&](auto type) { return plan_on_chip<decltype(type)>(rows, cols, *chip, false); });
}

void turns(int dtype, int64_t rows, int64_t cols, int64_t cache, Turns* turns) {
  *turns = dispatch(dtype, [&](auto type) { return plan_turns<decltype(type)>(rows, cols, cache); });
}

void turn(int64_t block, const Turns* turns, Turn* turn) { *turn = turn_of(block, *turns); }

int sgr_residual(const Matrix* delta, const Matrix* target, const Settings* settings, void* loss, void* v) {
  return run(delta->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_sgr_residual(device, row_set<T>(*delta, *target), options_of(*delta, *settings),
                     static_cast<Wide<T>*>(loss), static_cast<Wide<T>*>(v));
  });
}

// What a captured launch does when it runs again: the same stamp, and the memory as it was left with other rows.
int sgr_residual_again(const Matrix* before, const Matrix* delta, const Matrix* target, const Settings* settings,
                       void* loss, void* v) {
  return run(delta->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    SameMemory same{device};
    for (const Matrix* rows : {before, delta})
      run_sgr_residual(same, row_set<T>(*rows, *target), options_of(*delta, *settings), static_cast<Wide<T>*>(loss),
                       static_cast<Wide<T>*>(v), 0x1234567812345678);
  });
}

}  // extern "C"
