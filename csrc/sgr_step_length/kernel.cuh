// The length of a step, by one block: there is a number or two a sample.
#pragma once

#include "common/launch.cuh"
#include "sgr_step_length/law.h"

namespace sgr::cuda {

// loss, inverse: one number. step: (2, rows).
template <typename T>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    sgr_step_length_kernel(StepRows in, const T* loss, Law law, double* inverse, double* step) {
  StepSums own;
  for (int64_t b = threadIdx.x; b < in.rows; b += blockDim.x) add_row(in, b, law, own);
  for (int64_t b = threadIdx.x; b < in.outputs; b += blockDim.x) add_output(in, b, own);
  double of_steps[3] = {own.weighted, own.weight, own.of_loss}, of_squares[2] = {own.x, own.delta},
         of_output[2] = {own.output, own.delta_output};
  block_sum(of_steps);
  block_sum(of_squares);
  block_sum(of_output);
  const StepSums sums{of_steps[0],   of_steps[1],  of_steps[2],  of_squares[0],
                      of_squares[1], of_output[0], of_output[1], block_max(own.furthest)};
  const double result = inverse_length(in, sums, to_double(*loss), law), h = length_of(result);
  for (int64_t i = threadIdx.x; i < 2 * in.rows; i += blockDim.x) step[i] = h * in.coef[i];
  if (threadIdx.x == 0) *inverse = result;
}

// loss, inverse: one number. step: (2, rows). There must be a row.
template <class Device, typename T>
void run_sgr_step_length(Device& device, const StepRows& in, const T* loss, const Law& law, double* inverse,
                         double* step) {
  launch_kernel(sgr_step_length_kernel<T>, {1, kMaxThreads}, device.stream(), in, loss, law, inverse, step);
}

}  // namespace sgr::cuda
