// The CUDA kernel of sgr_shift, sgr_loss_backward and the second half of sgr_residual where rows are long:
// factor (alpha_b delta_b + beta_b target_b), and x_b more if wanted. Reads all inputs once, writes once.
#pragma once

#include "common/segments.cuh"

namespace sgr::cuda {

// alpha delta + beta target of the rows delta, target and maybe x, to which it is added; rounded once. A dead row gives
// 0, or x to the last bit, even where delta or target hold Inf.
template <typename Out, typename T, int width, int inputs>
__device__ inline Pack<Out, width> combine_pack(const Packs<T, width, inputs>& in, double alpha, double beta,
                                                bool dead) {
  Pack<Out, width> out;
#pragma unroll
  for (int k = 0; k < width; ++k) {
    const double v = alpha * to_double(in.row[0].value[k]) + beta * to_double(in.row[1].value[k]);
    if constexpr (inputs == 3) {
      out.value[k] = in.row[2].value[k];
      if (!dead) from_double(to_double(in.row[2].value[k]) + v, &out.value[k]);
    } else {
      from_double(dead ? 0.0 : v, &out.value[k]);
    }
  }
  return out;
}

// alpha, beta: (rows). out: (rows, cols) contiguous.
template <typename T, int inputs, typename Out>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    combine_kernel(RowSet<T, inputs> in, const double* alpha, const double* beta, Number<Wide<T>> factor, Out* out) {
  for_each_segment(in, [&](int64_t row, int64_t column, int length, const auto& reader) {
    Out* to = out + row * in.cols() + column;
    const bool dead = alpha[row] == 0.0 && beta[row] == 0.0;
    const double a = factor.get() * alpha[row], b = factor.get() * beta[row];
    sweep<T>(align(length, reader, to), reader,
             [&](int offset, const auto& packs) { store_global(to + offset, combine_pack<Out>(packs, a, b, dead)); });
  });
}

// alpha, beta: (rows). out: (rows, cols) contiguous. Neither rows nor cols may be 0.
template <class Device, typename T, int inputs, typename Out>
void run_combine(Device& device, const RowSet<T, inputs>& in, const double* alpha, const double* beta,
                 const Number<Wide<T>>& factor, Out* out) {
  launch_segments(combine_kernel<T, inputs, Out>, device.stream(), in, alpha, beta, factor, out);
}

}  // namespace sgr::cuda
