#include "common/cuda.cuh"
#include "cross_entropy/kernel.cuh"
#include "cross_entropy/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("cross_entropy", TORCH_BOX(&sgr::cross_entropy<sgr::cuda::Device>));
  m.impl("cross_entropy_hvp", TORCH_BOX(&sgr::cross_entropy_hvp<sgr::cuda::Device>));
}
