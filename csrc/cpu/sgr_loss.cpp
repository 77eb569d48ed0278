// The registered CPU operators: check tensors, cut rows into segments, run the serial kernels on torch's thread pool.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "sgr/cpu/rows.h"
#include "sgr/row_math.h"
#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cpu;

// Rows are cut into segments, the unit of work of a thread, at places that depend on n alone: results do not depend on the
// number of threads. A row has at most kMaxSegments of them, so that partial sums take no memory to speak of.
constexpr int64_t kSegment = 16384;
constexpr int64_t kMaxSegments = 256;
// Stretch that one serial sum runs over. Float64 input gets short ones, because there the rounding of the sums themselves
// is what limits the result.
template <typename T>
constexpr int64_t kStretch = std::is_same_v<T, double> ? 128 : kSegment;
// What one thread should at least get, and what fits the caches between the two sweeps of the residual (elements).
constexpr int64_t kGrain = 32768;
constexpr int64_t kCacheBlock = 262144;

template <typename T>
struct RowPair {
  const T* delta;
  const T* target;
  int64_t rows, cols, delta_stride, target_stride;

  const T* delta_row(int64_t b) const { return delta + b * delta_stride; }
  const T* target_row(int64_t b) const { return target + b * target_stride; }
};

struct Options {
  bool normalize;
  double scale, floor, eps;
};

int64_t segment_length(int64_t cols) { return kSegment * std::max<int64_t>(1, ceil_div(cols, kSegment * kMaxSegments)); }

// f(row, segment, first column, length) for every segment of the rows [first, last).
template <typename F>
void for_each_segment(int64_t first, int64_t last, int64_t cols, const F& f) {
  const int64_t length = segment_length(cols), segments = ceil_div(cols, length);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::min(cols, length));
  torch::stable::parallel_for(0, (last - first) * segments, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t segment = task % segments, column = segment * length;
      f(first + task / segments, segment, column, std::min(length, cols - column));
    }
  });
}

// The sums f(column, length) of the stretches of a segment, added as a binary tree: the error grows with the logarithm of
// their number.
template <typename T, int width, typename F>
std::array<double, width> tree_sum(int64_t column, int64_t length, const F& f) {
  if (length <= kStretch<T>) return f(column, length);
  const int64_t half = ceil_div(length, 2 * kStretch<T>) * kStretch<T>;
  auto sums = tree_sum<T, width>(column, half, f);
  const auto rest = tree_sum<T, width>(column + half, length - half, f);
  for (int i = 0; i < width; ++i) sums[i] += rest[i];
  return sums;
}

// The same tree over partial sums that are `width` apart.
template <int width>
double tree_sum(const double* x, int64_t count) {
  if (count == 1) return *x;
  const int64_t half = count / 2;
  return tree_sum<width>(x, half) + tree_sum<width>(x + half * width, count - half);
}

// Per-row totals of the `width` sums f(row, column, length).
template <typename T, int width, typename F>
std::vector<double> row_totals(int64_t first, int64_t last, int64_t cols, const F& f) {
  const int64_t segments = ceil_div(cols, segment_length(cols));
  std::vector<double> partial((last - first) * segments * width);
  for_each_segment(first, last, cols, [&](int64_t b, int64_t segment, int64_t column, int64_t length) {
    const auto sums = tree_sum<T, width>(column, length, [&](int64_t at, int64_t count) { return f(b, at, count); });
    std::copy(sums.begin(), sums.end(), &partial[((b - first) * segments + segment) * width]);
  });
  std::vector<double> total((last - first) * width);
  for (int64_t b = 0; b < last - first; ++b)
    for (int i = 0; i < width; ++i) total[b * width + i] = tree_sum<width>(&partial[b * segments * width + i], segments);
  return total;
}

// Coefficients and loss of the rows [first, last).
template <typename T>
std::vector<RowCoef> row_coefficients(const RowPair<T>& in, int64_t first, int64_t last, const Options& options) {
  constexpr bool exact_distance = std::is_same_v<T, double>;  // 1 - c from float64 sums would lose digits
  std::vector<double> sums;
  if (options.normalize || options.floor > 0.0) {
    sums = row_totals<T, 3>(first, last, in.cols, [&](int64_t b, int64_t column, int64_t length) {
      const auto s = row_sums(in.delta_row(b) + column, in.target_row(b) + column, length);
      return std::array<double, 3>{s.dd, s.gg, s.dg};
    });
  } else {
    sums.assign((last - first) * 3, 0.0);
  }
  const bool half_distance = options.normalize && exact_distance;
  if (half_distance || !options.normalize) {
    const auto distance = row_totals<T, 1>(first, last, in.cols, [&](int64_t b, int64_t column, int64_t length) {
      const double* s = &sums[(b - first) * 3];
      const double d_scale = half_distance ? 1.0 / std::sqrt(s[0]) : 1.0;
      const double g_scale = half_distance ? 1.0 / std::sqrt(s[1]) : 1.0;
      return std::array<double, 1>{
          row_distance(in.delta_row(b) + column, in.target_row(b) + column, length, d_scale, g_scale)};
    });
    for (int64_t b = 0; b < last - first; ++b) sums[b * 3 + 2] = half_distance ? 0.5 * distance[b] : distance[b];
  }
  std::vector<RowCoef> rows(last - first);
  for (int64_t b = 0; b < last - first; ++b)
    rows[b] = sgr::finish_row(sums[b * 3], sums[b * 3 + 1], sums[b * 3 + 2], options.normalize, half_distance,
                              options.scale, options.floor, options.eps);
  return rows;
}

// out[b] = alpha_b delta_b + beta_b target_b. A row without coefficients is dead: 0 even where it holds Inf.
template <typename T, typename Out, typename Coefficients>
void combine(const RowPair<T>& in, int64_t first, int64_t last, const Coefficients& coefficients, Out* out) {
  for_each_segment(first, last, in.cols, [&](int64_t b, int64_t, int64_t column, int64_t length) {
    const auto [alpha, beta] = coefficients(b);
    Out* to = out + b * in.cols + column;
    if (alpha == 0.0 && beta == 0.0) {
      std::fill_n(to, length, Out{});
    } else {
      row_combine(in.delta_row(b) + column, in.target_row(b) + column, length, alpha, beta, to);
    }
  });
}

void check_pair(const Tensor& delta, const Tensor& target) {
  check_alike(delta, target, "delta and target");
  check_rows(delta, "delta");
  check_rows(target, "target");
}

template <typename T>
RowPair<T> row_pair(const Tensor& delta, const Tensor& target) {
  return {data<T>(delta), data<T>(target), delta.size(0), delta.size(1), delta.stride(0), target.stride(0)};
}

Options make_options(const Tensor& delta, bool normalize, int64_t reduction, double floor,
                     const std::optional<Tensor>& floor_tensor, double eps) {
  if (floor_tensor) {
    STD_TORCH_CHECK(floor_tensor->is_cpu() && floor_tensor->scalar_type() == ScalarType::Double &&
                        floor_tensor->dim() == 0,
                    "floor_tensor must be a 0-d float64 CPU tensor");
    floor = *data<double>(*floor_tensor);
  }
  const double scale = sgr::reduction_scale(static_cast<int>(reduction), delta.size(0), delta.size(1));
  return {normalize, scale, floor, eps};
}

// factor * (alpha_b, beta_b); a dead row keeps its zeros whatever the factor is.
auto scaled_coefficients(const Tensor& alpha, const Tensor& beta, double factor) {
  return [a = data<double>(alpha), b = data<double>(beta), factor](int64_t row) {
    const bool dead = a[row] == 0.0 && b[row] == 0.0;
    return std::pair(dead ? 0.0 : factor * a[row], dead ? 0.0 : factor * b[row]);
  };
}

void check_coefficients(const Tensor& delta, const Tensor& alpha, const Tensor& beta) {
  for (const auto& coefficient : {alpha, beta})
    STD_TORCH_CHECK(coefficient.is_cpu() && coefficient.scalar_type() == ScalarType::Double &&
                        coefficient.is_contiguous() && coefficient.numel() == delta.size(0),
                    "alpha and beta must be contiguous float64 CPU tensors, one number a row");
}

std::tuple<Tensor, Tensor> sgr_loss(Tensor delta, Tensor target, bool normalize, int64_t reduction, double floor,
                                    std::optional<Tensor> floor_tensor, double eps) {
  check_pair(delta, target);
  const int64_t batch = delta.size(0);
  auto coef = torch::stable::new_zeros(delta, {3, batch}, ScalarType::Double);
  if (delta.numel() == 0) return {scalar_result(delta, 0.0), coef};
  const auto options = make_options(delta, normalize, reduction, floor, floor_tensor, eps);
  double loss = 0.0;
  auto* out = mutable_data<double>(coef);
  dispatch(delta.scalar_type(), [&](auto type) {
    const auto rows = row_coefficients(row_pair<decltype(type)>(delta, target), 0, batch, options);
    for (int64_t b = 0; b < batch; ++b) {
      out[b] = rows[b].alpha, out[batch + b] = rows[b].beta, out[2 * batch + b] = rows[b].alpha_target;
      loss += rows[b].loss;
    }
  });
  return {scalar_result(delta, loss), coef};
}

Tensor sgr_loss_backward(Tensor grad_loss, Tensor delta, Tensor target, Tensor alpha, Tensor beta) {
  check_pair(delta, target);
  STD_TORCH_CHECK(grad_loss.is_cpu() && grad_loss.numel() == 1 && grad_loss.scalar_type() == result_type(delta),
                  "grad_loss must be a CPU scalar of the dtype of the loss");
  check_coefficients(delta, alpha, beta);
  auto out = torch::stable::new_empty(delta, {delta.size(0), delta.size(1)});
  if (delta.numel() == 0) return out;
  dispatch(delta.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const auto coefficients = scaled_coefficients(alpha, beta, *data<Wide<T>>(grad_loss));
    combine(row_pair<T>(delta, target), 0, delta.size(0), coefficients, mutable_data<T>(out));
  });
  return out;
}

Tensor sgr_shift(Tensor x, Tensor delta, Tensor target, Tensor alpha, Tensor beta, double factor) {
  check_pair(delta, target);
  check_alike(x, delta, "x and delta");
  check_rows(x, "x");
  check_coefficients(delta, alpha, beta);
  auto out = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  if (x.numel() == 0) return out;
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const auto in = row_pair<T>(delta, target);
    const auto coefficients = scaled_coefficients(alpha, beta, factor);
    const T* from = data<T>(x);
    T* to = mutable_data<T>(out);
    for_each_segment(0, in.rows, in.cols, [&, stride = x.stride(0)](int64_t b, int64_t, int64_t column, int64_t length) {
      const auto [a, c] = coefficients(b);
      const T* row = from + b * stride + column;
      T* shifted = to + b * in.cols + column;
      if (a == 0.0 && c == 0.0) {
        std::copy_n(row, length, shifted);
      } else {
        row_shift(row, in.delta_row(b) + column, in.target_row(b) + column, length, a, c, shifted);
      }
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> sgr_residual(Tensor delta, Tensor target, bool normalize, int64_t reduction, double floor,
                                        std::optional<Tensor> floor_tensor, double eps) {
  check_pair(delta, target);
  const int64_t batch = delta.size(0), cols = delta.size(1);
  auto v = torch::stable::new_empty(delta, {batch, cols}, result_type(delta));
  if (delta.numel() == 0) return {scalar_result(delta, 0.0), v};
  const auto options = make_options(delta, normalize, reduction, floor, floor_tensor, eps);
  double loss = 0.0;
  dispatch(delta.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const auto in = row_pair<T>(delta, target);
    auto* out = mutable_data<Wide<T>>(v);
    // Block by block, so that the second sweep finds the rows in the cache.
    const int64_t block = std::max<int64_t>(1, kCacheBlock / cols);
    for (int64_t first = 0; first < batch; first += block) {
      const int64_t last = std::min(batch, first + block);
      const auto rows = row_coefficients(in, first, last, options);
      for (const auto& row : rows) loss += row.loss;
      combine(in, first, last, [&](int64_t b) { return std::pair(rows[b - first].alpha, rows[b - first].beta); }, out);
    }
  });
  return {scalar_result(delta, loss), v};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("sgr_loss", TORCH_BOX(&sgr_loss));
  m.impl("sgr_loss_backward", TORCH_BOX(&sgr_loss_backward));
  m.impl("sgr_residual", TORCH_BOX(&sgr_residual));
  m.impl("sgr_shift", TORCH_BOX(&sgr_shift));
}
