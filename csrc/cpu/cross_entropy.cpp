// The registered CPU operators of the cross entropy: one row of logits at a time, in double, on torch's thread pool.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "tensors.h"

namespace {

using namespace sgr;
using namespace sgr::cpu;

constexpr int64_t kGrain = 4096;  // logits that are worth a thread

// Softmax of one row, with the label set apart so that nothing is lost where it dominates.
struct Softmax {
  std::vector<double> p;  // of every class; of the label too
  double others;          // sum of p over all but the label
  double loss;

  template <typename T>
  void operator()(const T* logits, int64_t classes, int64_t label) {
    p.resize(classes);
    const double own = to_float(logits[label]);
    double largest = -std::numeric_limits<double>::infinity(), sum = 0.0;
    for (int64_t k = 0; k < classes; ++k)
      if (k != label) largest = std::max(largest, static_cast<double>(to_float(logits[k])));
    const double shift = std::isinf(largest) && largest < 0 ? 0.0 : largest;  // every other class may be masked by -inf
    for (int64_t k = 0; k < classes; ++k) {
      p[k] = k == label ? 0.0 : std::exp(to_float(logits[k]) - shift);
      sum += p[k];
    }
    double log_odds = std::log(sum) + (shift - own);  // against the label
    if (own == std::numeric_limits<double>::infinity()) log_odds = std::numeric_limits<double>::quiet_NaN();
    const double small = std::exp(-std::abs(log_odds));     // at most 1: never overflows
    loss = std::max(log_odds, 0.0) + std::log1p(small);
    others = (log_odds > 0 ? 1.0 : small) / (1.0 + small);
    for (double& value : p) value *= sum > 0.0 ? others / sum : 0.0;
    if (std::isnan(log_odds)) std::fill(p.begin(), p.end(), log_odds);
    p[label] = (log_odds > 0 ? small : 1.0) / (1.0 + small);
  }
};

void check_labels(const Tensor& logits, const Tensor& labels) {
  check_rows(logits, "logits");
  STD_TORCH_CHECK(logits.is_cpu() && labels.is_cpu(), "logits and labels must be CPU tensors");
  STD_TORCH_CHECK(labels.dim() == 1 && labels.size(0) == logits.size(0) && labels.is_contiguous() &&
                      labels.scalar_type() == ScalarType::Long,
                  "labels must be contiguous int64, one a row of logits");
  const auto* label = data<int64_t>(labels);
  for (int64_t b = 0; b < labels.size(0); ++b)
    STD_TORCH_CHECK(label[b] >= 0 && label[b] < logits.size(1), "labels must be 0 to ", logits.size(1) - 1, ", got ",
                    label[b]);
}

// f(row, softmax of the row) for every row.
template <typename T, typename F>
void for_each_row(const Tensor& logits, const Tensor& labels, const F& f) {
  const int64_t classes = logits.size(1), stride = logits.stride(0);
  const T* rows = data<T>(logits);
  const auto* label = data<int64_t>(labels);
  torch::stable::parallel_for(0, logits.size(0), std::max<int64_t>(1, kGrain / classes), [&](int64_t begin, int64_t end) {
    Softmax softmax;
    for (int64_t b = begin; b < end; ++b) {
      softmax(rows + b * stride, classes, label[b]);
      f(b, softmax);
    }
  });
}

std::tuple<Tensor, Tensor> cross_entropy(Tensor logits, Tensor labels) {
  check_labels(logits, labels);
  const int64_t batch = logits.size(0), classes = logits.size(1);
  auto gradient = torch::stable::new_empty(logits, {batch, classes}, result_type(logits));
  const auto* label = data<int64_t>(labels);
  std::vector<double> losses(batch);
  if (batch > 0) dispatch(logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    auto* out = mutable_data<Wide<T>>(gradient);
    for_each_row<T>(logits, labels, [&](int64_t b, const Softmax& softmax) {
      losses[b] = softmax.loss;
      for (int64_t k = 0; k < classes; ++k) out[b * classes + k] = static_cast<Wide<T>>(softmax.p[k] / batch);
      out[b * classes + label[b]] = static_cast<Wide<T>>(-softmax.others / batch);
    });
  });
  double sum = 0.0;
  for (const double loss : losses) sum += loss;
  return {scalar_result(logits, sum / batch), gradient};  // NaN for an empty batch
}

Tensor cross_entropy_hvp(Tensor logits, Tensor labels, Tensor tangent) {
  check_labels(logits, labels);
  check_rows(tangent, "tangent");
  STD_TORCH_CHECK(tangent.is_cpu() && tangent.scalar_type() == result_type(logits) &&
                      tangent.size(0) == logits.size(0) && tangent.size(1) == logits.size(1),
                  "tangent must have the shape of logits and the dtype of their gradient");
  const int64_t batch = logits.size(0), classes = logits.size(1);
  auto result = torch::stable::new_empty(logits, {batch, classes}, result_type(logits));
  if (batch > 0) dispatch(logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const auto* tangents = data<Wide<T>>(tangent);
    auto* out = mutable_data<Wide<T>>(result);
    for_each_row<T>(logits, labels, [&](int64_t b, const Softmax& softmax) {
      // Relative to the likeliest class, whose p is near 1 where the others vanish: its own share must not cancel.
      const auto* t = tangents + b * tangent.stride(0);
      const auto likeliest = std::max_element(softmax.p.begin(), softmax.p.end()) - softmax.p.begin();
      double mean = 0.0;
      for (int64_t k = 0; k < classes; ++k) mean += softmax.p[k] * (t[k] - double{t[likeliest]});
      for (int64_t k = 0; k < classes; ++k)
        out[b * classes + k] = static_cast<Wide<T>>(softmax.p[k] * (t[k] - double{t[likeliest]} - mean) / batch);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("cross_entropy", TORCH_BOX(&cross_entropy));
  m.impl("cross_entropy_hvp", TORCH_BOX(&cross_entropy_hvp));
}
