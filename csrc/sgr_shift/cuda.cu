#include "common/cuda.cuh"
#include "sgr_shift/kernel.cuh"
#include "sgr_shift/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { m.impl("sgr_shift", SGR_BOX(&sgr::sgr_shift<sgr::cuda::Device>)); }
