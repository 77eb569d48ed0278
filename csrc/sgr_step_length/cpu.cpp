#include "row_norms/kernel.h"
#include "sgr_step_length/operator.h"

namespace sgr::cpu {

template <typename T>
void run_sgr_step_length(const Device&, const StepRows& in, const T* loss, const Law& law, double* inverse,
                         double* step) {
  StepSums sums;
  for (int64_t b = 0; b < in.rows; ++b) add_row(in, b, law, sums);
  for (int64_t b = 0; b < in.outputs; ++b) add_output(in, b, sums);
  *inverse = inverse_length(in, sums, to_float(*loss), law);
  const double h = length_of(*inverse);
  for (int64_t i = 0; i < 2 * in.rows; ++i) step[i] = h * in.coef[i];
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("sgr_step_length", SGR_BOX(&sgr::sgr_step_length<sgr::cpu::Device>));
}
