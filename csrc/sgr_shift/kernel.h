// The CPU kernel of sgr_shift, sgr_loss_backward and the second half of sgr_residual.
#pragma once

#include "common/cpu.h"
#include "common/segments.h"

namespace sgr::cpu {

// out = alpha d + beta g, and x more if wanted. x, d, g, out: (n).
template <bool with_x, typename T, typename Out>
SGR_CLONES void combine_stretch(const T* __restrict d, const T* __restrict g, const T* __restrict x, int64_t n,
                                double alpha, double beta, Out* __restrict out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const double v = alpha * to_float(d[i]) + beta * to_float(g[i]);
    from_double(with_x ? to_float(x[i]) + v : v, out + i);
  }
}

// out_b = factor (alpha_b delta_b + beta_b target_b), and x_b more if there are three inputs. A row without
// coefficients adds nothing, even where it holds Inf. alpha, beta: (rows). out: (rows, cols) contiguous.
template <typename T, int inputs, typename Out>
void run_combine(const Device&, const RowSet<T, inputs>& in, const double* alpha, const double* beta,
                 const Number<Wide<T>>& factor, Out* out) {
  for_each_segment(in.rows(), in.cols(), [&](int64_t b, int64_t, int64_t column, int64_t length) {
    const bool dead = alpha[b] == 0.0 && beta[b] == 0.0;  // whatever the factor is
    const double a = dead ? 0.0 : factor.get() * alpha[b], c = dead ? 0.0 : factor.get() * beta[b];
    constexpr bool with_x = inputs == 3;
    const T* x = with_x ? in[inputs - 1].at(b, column) : nullptr;
    Out* to = out + b * in.cols() + column;
    if (a != 0.0 || c != 0.0) {
      combine_stretch<with_x>(in[0].at(b, column), in[1].at(b, column), x, length, a, c, to);
    } else if constexpr (with_x) {
      std::copy_n(x, length, to);
    } else {
      std::fill_n(to, length, Out{});
    }
  });
}

}  // namespace sgr::cpu
