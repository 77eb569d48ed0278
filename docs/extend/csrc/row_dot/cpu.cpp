// row_dot on the CPU: whole rows for the threads of torch's pool.
#include <algorithm>

#include "common/clones.h"
#include "common/cpu.h"
#include "row_dot/operator.h"

namespace sgr::cpu {

// f(row) for all rows. What a thread gets is worth its while: 32768 elements.
template <typename F>
void for_each_row(int64_t rows, int64_t cols, const F& f) {
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, 32768 / cols), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) f(row);
  });
}

// sum a b, accumulated in double.
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

// out = factor x, rounded once.
template <typename T>
SGR_CLONES void scale(double factor, const T* x, int64_t n, T* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) from_double(factor * to_float(x[i]), out + i);
}

template <typename T>
void run_row_dot(const Device&, const Rows<T>& a, const Rows<T>& b, Wide<T>* dots) {
  for_each_row(a.rows, a.cols, [&](int64_t row) {
    dots[row] = static_cast<Wide<T>>(dot(a.at(row, 0), b.at(row, 0), a.cols));
  });
}

template <typename T>
void run_row_dot_backward(const Device&, const Wide<T>* grad, const Rows<T>& a, const Rows<T>& b, T* grad_a,
                          T* grad_b) {
  for_each_row(a.rows, a.cols, [&](int64_t row) {
    scale(grad[row], b.at(row, 0), a.cols, grad_a + row * a.cols);
    scale(grad[row], a.at(row, 0), a.cols, grad_b + row * a.cols);
  });
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("row_dot", TORCH_BOX(&sgr::row_dot<sgr::cpu::Device>));
  m.impl("row_dot_backward", TORCH_BOX(&sgr::row_dot_backward<sgr::cpu::Device>));
}
