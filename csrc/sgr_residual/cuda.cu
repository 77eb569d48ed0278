// sgr_residual on CUDA.
#include "common/cuda.cuh"
#include "sgr_residual/kernel.cuh"
#include "sgr_residual/sgr_residual.h"

namespace sgr::cuda {

template <typename T>
void run_sgr_residual(const Device& device, const RowPair<T>& in, const Options& options, Wide<T>* loss, Wide<T>* v) {
  const auto memory = device.workspace(Workspace::doubles(in.rows(), in.cols()));
  const Workspace work(mutable_data<double>(memory), in.rows());
  STD_CUDA_CHECK(launch_sgr_residual(in, options, work, loss, v, device.stream()));
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { sgr::SgrResidual<sgr::cuda::Device>::implement(m); }
