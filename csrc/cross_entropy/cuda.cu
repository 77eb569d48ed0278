#include "common/cuda.cuh"
#include "cross_entropy/kernel.cuh"
#include "cross_entropy/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("cross_entropy", SGR_BOX(&sgr::cross_entropy<sgr::cuda::Device>));
  m.impl("cross_entropy_hvp", SGR_BOX(&sgr::cross_entropy_hvp<sgr::cuda::Device>));
}
