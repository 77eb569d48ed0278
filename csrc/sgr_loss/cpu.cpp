// sgr_loss, sgr_loss_backward and sgr_residual on the CPU.
#include "sgr_loss/operator.h"
#include "sgr_shift/kernel.h"

namespace sgr::cpu {

// sum d^2, sum g^2 and sum d g, accumulated in double. d, g: (n).
template <typename T>
SGR_CLONES std::array<double, 3> stretch_sums(const T* __restrict d, const T* __restrict g, int64_t n) {
  double dd = 0.0, gg = 0.0, dg = 0.0;
#pragma omp simd reduction(+ : dd, gg, dg)
  for (int64_t i = 0; i < n; ++i) {
    const double x = to_float(d[i]), y = to_float(g[i]);
    dd += x * x;
    gg += y * y;
    dg += x * y;
  }
  return {dd, gg, dg};
}

// sum (d_scale d - g_scale g)^2. d, g: (n).
template <typename T>
SGR_CLONES double stretch_distance(const T* __restrict d, const T* __restrict g, int64_t n, double d_scale,
                                   double g_scale) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const double difference = d_scale * to_float(d[i]) - g_scale * to_float(g[i]);
    sum += difference * difference;
  }
  return sum;
}

// alpha, beta and alpha_target of every row. Adds the losses of the rows to *loss. coef: (3, rows).
template <typename T>
void row_coefficients(const RowSet<T, 2>& in, const Options& options, double* coef, double* loss) {
  const bool of_units = options.normalize && kUnitDistance<T>;
  const int64_t rows = in.rows(), cols = in.cols();
  std::vector<double> sums(rows * 3);
  if (options.normalize || options.floor.get() > 0.0) {
    sums = row_totals<T, 3>(rows, cols, [&](int64_t b, int64_t column, int64_t length) {
      return stretch_sums(in[0].at(b, column), in[1].at(b, column), length);
    });
  }
  if (of_units || !options.normalize) {
    const auto distance = row_totals<T, 1>(rows, cols, [&](int64_t b, int64_t column, int64_t length) {
      const double d_scale = of_units ? 1.0 / std::sqrt(sums[b * 3]) : 1.0;
      const double g_scale = of_units ? 1.0 / std::sqrt(sums[b * 3 + 1]) : 1.0;
      return std::array{stretch_distance(in[0].at(b, column), in[1].at(b, column), length, d_scale, g_scale)};
    });
    for (int64_t b = 0; b < rows; ++b) sums[b * 3 + 2] = distance[b];
  }
  for (int64_t b = 0; b < rows; ++b) {
    const RowCoef row = finish_row<T>(&sums[b * 3], options.normalize, options);
    coef[b] = row.alpha;
    coef[rows + b] = row.beta;
    coef[2 * rows + b] = row.alpha_target;
    *loss += row.loss;
  }
}

template <typename T>
void run_sgr_loss(const Device&, const RowSet<T, 2>& in, const Options& options, double* coef, Wide<T>* loss) {
  double sum = 0.0;
  row_coefficients(in, options, coef, &sum);
  *loss = static_cast<Wide<T>>(sum);
}

// Block by block, so that the second sweep finds the rows in the cache.
template <typename T>
void run_sgr_residual(const Device& device, const RowSet<T, 2>& in, const Options& options, Wide<T>* loss,
                      Wide<T>* v) {
  constexpr int64_t cache_block = 262144;  // elements
  const int64_t block = std::clamp<int64_t>(cache_block / in.cols(), 1, in.rows());
  std::vector<double> coef(3 * block);
  double sum = 0.0;
  for (int64_t first = 0; first < in.rows(); first += block) {
    const auto some = in.slice(first, std::min(first + block, in.rows()));
    row_coefficients(some, options, coef.data(), &sum);
    run_combine(device, some, &coef[0], &coef[some.rows()], Number<Wide<T>>{1.0, nullptr}, v + first * in.cols());
  }
  *loss = static_cast<Wide<T>>(sum);
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("sgr_loss", TORCH_BOX(&sgr::sgr_loss<sgr::cpu::Device>));
  m.impl("sgr_loss_backward", TORCH_BOX(&sgr::sgr_loss_backward<sgr::cpu::Device>));
  m.impl("sgr_residual", TORCH_BOX(&sgr::sgr_residual<sgr::cpu::Device>));
}
