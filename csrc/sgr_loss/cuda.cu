// sgr_loss and sgr_loss_backward on CUDA.
#include "common/cuda.cuh"
#include "sgr_loss/kernel.cuh"
#include "sgr_loss/sgr_loss.h"

namespace sgr::cuda {

template <typename T>
void run_sgr_loss(const Device& device, const RowPair<T>& in, const Options& options, double* coef, Wide<T>* loss) {
  const auto memory = device.workspace(Workspace::doubles(in.rows(), in.cols()));
  const Workspace work(mutable_data<double>(memory), in.rows());
  STD_CUDA_CHECK(launch_sgr_loss(in, options, work, coef, loss, device.stream()));
}

template <typename T>
void run_sgr_loss_backward(const Device& device, const RowPair<T>& in, const double* alpha, const double* beta,
                           const Wide<T>* scale, T* out) {
  STD_CUDA_CHECK(launch_sgr_loss_backward(in, alpha, beta, scale, out, device.stream()));
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { sgr::SgrLoss<sgr::cuda::Device>::implement(m); }
