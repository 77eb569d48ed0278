#include "common/cuda.cuh"
#include "row_norms/kernel.cuh"
#include "sgr_step_length/kernel.cuh"
#include "sgr_step_length/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("sgr_step_length", SGR_BOX(&sgr::sgr_step_length<sgr::cuda::Device>));
}
