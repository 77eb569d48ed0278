#include "common/cuda.cuh"
#include "row_norms/kernel.cuh"
#include "row_norms/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { m.impl("row_norms", SGR_BOX(&sgr::row_norms<sgr::cuda::Device>)); }
