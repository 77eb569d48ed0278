// cross_entropy and cross_entropy_hvp on CUDA.
#include "common/cuda.cuh"
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/kernel.cuh"

namespace sgr::cuda {

// To look at labels would wait for the device: the kernels answer those out of range with NaN.
inline void check_labels(const Device&, const int64_t*, int64_t, int64_t) {}

template <typename T>
void run_cross_entropy(const Device& device, const Rows<T>& logits, const int64_t* labels, Wide<T>* loss,
                       Wide<T>* gradient) {
  const auto memory = device.workspace(cross_entropy_doubles(logits.rows));
  STD_CUDA_CHECK(launch_cross_entropy(Logits<T>{logits, labels}, mutable_data<double>(memory), loss, gradient,
                                      device.stream()));
}

template <typename T>
void run_cross_entropy_hvp(const Device& device, const Rows<T>& logits, const int64_t* labels,
                           const Rows<Wide<T>>& tangent, Wide<T>* out) {
  STD_CUDA_CHECK(launch_cross_entropy_hvp(Logits<T>{logits, labels}, tangent, out, device.stream()));
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { sgr::CrossEntropy<sgr::cuda::Device>::implement(m); }
