// sgr_shift on CUDA.
#include "common/cuda.cuh"
#include "sgr_shift/kernel.cuh"
#include "sgr_shift/sgr_shift.h"

namespace sgr::cuda {

template <typename T>
void run_sgr_shift(const Device& device, const RowPair<T>& in, const Rows<T>& x, const double* alpha,
                   const double* beta, double factor, T* out) {
  STD_CUDA_CHECK(launch_sgr_shift(in, x, alpha, beta, factor, out, device.stream()));
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { sgr::SgrShift<sgr::cuda::Device>::implement(m); }
