// row_dot and row_dot_backward on the CPU.
#include "common/cpu.h"
#include "common/segments.h"
#include "row_dot/operator.h"

namespace sgr::cpu {

// sum a b, accumulated in double. a, b: (n).
template <typename T>
SGR_CLONES double dot(const T* a, const T* b, int64_t n) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const double x = to_float(a[i]), y = to_float(b[i]);
    sum += x * y;
  }
  return sum;
}

// out = factor x, rounded once. x, out: (n).
template <typename T>
SGR_CLONES void scale(const T* __restrict x, int64_t n, double factor, T* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) from_double(factor * to_float(x[i]), out + i);
}

// out: (rows).
template <typename T>
void run_row_dot(const Device&, const RowSet<T, 2>& in, Wide<T>* out) {
  const auto sums = row_totals<T, 1>(in.rows(), in.cols(), [&](int64_t row, int64_t column, int64_t length) {
    return std::array{dot(in[0].at(row, column), in[1].at(row, column), length)};
  });
  for (int64_t row = 0; row < in.rows(); ++row) out[row] = static_cast<Wide<T>>(sums[row]);
}

// grad: (rows). grad_a, grad_b: (rows, cols) contiguous.
template <typename T>
void run_row_dot_backward(const Device&, const RowSet<T, 2>& in, const Wide<T>* grad, T* grad_a, T* grad_b) {
  for_each_segment(in.rows(), in.cols(), [&](int64_t row, int64_t, int64_t column, int64_t length) {
    const int64_t at = row * in.cols() + column;
    scale(in[1].at(row, column), length, grad[row], grad_a + at);
    scale(in[0].at(row, column), length, grad[row], grad_b + at);
  });
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("row_dot", SGR_BOX(&sgr::row_dot<sgr::cpu::Device>));
  m.impl("row_dot_backward", SGR_BOX(&sgr::row_dot_backward<sgr::cpu::Device>));
}
