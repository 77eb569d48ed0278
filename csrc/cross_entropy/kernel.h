// Serial kernel of the cross entropy: the softmax of one row; free of torch and of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/half_types.h"

namespace sgr::cpu {

// The label is set apart so that nothing is lost where it dominates.
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

}  // namespace sgr::cpu
