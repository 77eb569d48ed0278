// sgr_step_length behind a C interface, on the machine of shim/.
#include "launch.h"
#include "sgr_step_length/kernel.cuh"

extern "C" {

int sgr_step_length(int dtype, const void* loss, const double* coef, const double* x, const double* delta,
                    const double* output, const double* delta_output, int64_t rows, int64_t outputs, const double* law,
                    double* inverse, double* step) {
  return run(dtype, [&](auto& device, auto type) {
    const StepRows in{coef, x, delta, output, delta_output, rows, outputs};
    run_sgr_step_length(device, in, static_cast<const decltype(type)*>(loss),
                        Law{law[0], law[1], law[2], law[3], law[4]}, inverse, step);
  });
}

}  // extern "C"
