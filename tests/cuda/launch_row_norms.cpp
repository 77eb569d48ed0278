// row_norms behind a C interface, on the machine of shim/.
#include "launch.h"
#include "row_norms/kernel.cuh"

extern "C" {

int row_norms(const Matrix* in, double* norms) {
  return run(in->dtype, [&](auto& device, auto type) { run_row_norms(device, row_set<decltype(type)>(*in), norms); });
}

}  // extern "C"
