#include "common/cuda.cuh"
#include "gate_bits/kernel.cuh"
#include "gate_bits/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) {
  m.impl("record_relu", SGR_BOX(&sgr::record_relu<sgr::cuda::Device>));
  m.impl("record_relu_", SGR_BOX(&sgr::record_relu_<sgr::cuda::Device>));
  m.impl("replay_relu", SGR_BOX(&sgr::replay_relu<sgr::cuda::Device>));
  m.impl("replay_relu_", SGR_BOX(&sgr::replay_relu_<sgr::cuda::Device>));
}
