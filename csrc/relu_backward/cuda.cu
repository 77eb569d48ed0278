#include "common/cuda.cuh"
#include "relu_backward/kernel.cuh"
#include "relu_backward/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { m.impl("relu_backward", SGR_BOX(&sgr::relu_backward<sgr::cuda::Device>)); }
