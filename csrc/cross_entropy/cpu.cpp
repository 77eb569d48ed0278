// cross_entropy and cross_entropy_hvp on the CPU: one row of logits at a time, in double, on torch's thread pool.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/cpu.h"
#include "cross_entropy/operator.h"

namespace sgr::cpu {

// The softmax of a row. The label is set apart so that nothing is lost where it dominates.
struct Softmax {
  std::vector<double> p;  // of every class; of the label too
  double others;          // sum of p over all but the label
  double loss;

  // logits: (classes).
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
    const double small = std::exp(-std::abs(log_odds));  // at most 1: never overflows
    loss = std::max(log_odds, 0.0) + std::log1p(small);
    others = (log_odds > 0 ? 1.0 : small) / (1.0 + small);
    for (double& value : p) value *= sum > 0.0 ? others / sum : 0.0;
    if (std::isnan(log_odds)) std::fill(p.begin(), p.end(), log_odds);
    p[label] = (log_odds > 0 ? small : 1.0) / (1.0 + small);
  }
};

constexpr int64_t kLogitGrain = 4096;  // logits that are worth a thread

// f(row, softmax of the row) for every row. labels: (rows).
template <typename T, typename F>
void for_each_row(const Rows<T>& logits, const int64_t* labels, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kLogitGrain / logits.cols);
  parallel_for(0, logits.rows, grain, [&](int64_t begin, int64_t end) {
    Softmax softmax;
    for (int64_t b = begin; b < end; ++b) {
      softmax(logits.at(b, 0), logits.cols, labels[b]);
      f(b, softmax);
    }
  });
}

inline void check_labels(const Device&, const int64_t* labels, int64_t rows, int64_t classes) {
  for (int64_t b = 0; b < rows; ++b)
    require(labels[b] >= 0 && labels[b] < classes, "labels must be 0 to ", classes - 1, ", got ", labels[b],
            " in row ", b);
}

template <typename T>
void run_cross_entropy(const Device&, const Rows<T>& logits, const int64_t* labels, Wide<T>* loss, Wide<T>* gradient) {
  std::vector<double> losses(logits.rows);
  for_each_row(logits, labels, [&](int64_t b, const Softmax& softmax) {
    losses[b] = softmax.loss;
    Wide<T>* out = gradient + b * logits.cols;
    for (int64_t k = 0; k < logits.cols; ++k) out[k] = static_cast<Wide<T>>(softmax.p[k] / logits.rows);
    out[labels[b]] = static_cast<Wide<T>>(-softmax.others / logits.rows);
  });
  double sum = 0.0;
  for (const double row : losses) sum += row;
  *loss = static_cast<Wide<T>>(sum / logits.rows);
}

template <typename T>
void run_cross_entropy_hvp(const Device&, const Rows<T>& logits, const int64_t* labels, const Rows<Wide<T>>& tangent,
                           Wide<T>* out) {
  for_each_row(logits, labels, [&](int64_t b, const Softmax& softmax) {
    // Relative to the likeliest class, whose p is near 1 where the others vanish: its own share must not cancel.
    const double* p = softmax.p.data();
    const Wide<T>* t = tangent.at(b, 0);
    Wide<T>* row = out + b * logits.cols;
    const double top = t[std::max_element(p, p + logits.cols) - p];
    double mean = 0.0;
    for (int64_t k = 0; k < logits.cols; ++k) mean += p[k] * (t[k] - top);
    for (int64_t k = 0; k < logits.cols; ++k) row[k] = static_cast<Wide<T>>(p[k] * (t[k] - top - mean) / logits.rows);
  });
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("cross_entropy", SGR_BOX(&sgr::cross_entropy<sgr::cpu::Device>));
  m.impl("cross_entropy_hvp", SGR_BOX(&sgr::cross_entropy_hvp<sgr::cpu::Device>));
}
