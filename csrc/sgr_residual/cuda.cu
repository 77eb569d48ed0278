#include "common/cuda.cuh"
#include "sgr_residual/kernel.cuh"
#include "sgr_residual/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { m.impl("sgr_residual", SGR_BOX(&sgr::sgr_residual<sgr::cuda::Device>)); }
