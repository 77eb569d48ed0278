// sgr_shift on the CPU.
#include "common/cpu.h"
#include "common/segments.h"
#include "sgr_shift/kernel.h"
#include "sgr_shift/sgr_shift.h"

namespace sgr::cpu {

template <typename T>
void run_sgr_shift(const Device&, const RowPair<T>& in, const Rows<T>& x, const double* alpha, const double* beta,
                   double factor, T* out) {
  const auto coefficients = scaled_coefficients(alpha, beta, factor);
  for_each_segment(0, in.rows(), in.cols(), [&](int64_t b, int64_t, int64_t column, int64_t length) {
    const auto [a, c] = coefficients(b);
    T* to = out + b * in.cols() + column;
    if (a == 0.0 && c == 0.0) {
      std::copy_n(x.at(b, column), length, to);
    } else {
      row_shift(x.at(b, column), in.delta.at(b, column), in.target.at(b, column), length, a, c, to);
    }
  });
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { sgr::SgrShift<sgr::cpu::Device>::implement(m); }
