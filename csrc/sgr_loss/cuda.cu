#include "common/cuda.cuh"
#include "sgr_loss/kernel.cuh"
#include "sgr_loss/operator.h"
#include "sgr_shift/kernel.cuh"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("sgr_loss", SGR_BOX(&sgr::sgr_loss<sgr::cuda::Device>));
  m.impl("sgr_loss_backward", SGR_BOX(&sgr::sgr_loss_backward<sgr::cuda::Device>));
}
