// row_norms on CUDA.
#include "common/cuda.cuh"
#include "row_norms/kernel.cuh"
#include "row_norms/row_norms.h"

namespace sgr::cuda {

template <typename T>
void run_row_norms(const Device& device, const Rows<T>& in, double* norms) {
  const auto memory = device.workspace(row_norms_doubles(in.rows, in.cols));
  STD_CUDA_CHECK(launch_row_norms(in, mutable_data<double>(memory), norms, device.stream()));
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { sgr::RowNorms<sgr::cuda::Device>::implement(m); }
