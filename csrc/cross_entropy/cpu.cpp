// cross_entropy and cross_entropy_hvp on the CPU: one row of logits at a time, in double, on torch's thread pool.
#include "common/cpu.h"
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/kernel.h"

namespace sgr::cpu {

constexpr int64_t kGrain = 4096;  // logits that are worth a thread

// f(row, softmax of the row) for every row. labels: (rows).
template <typename T, typename F>
void for_each_row(const Rows<T>& logits, const int64_t* labels, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / logits.cols);
  torch::stable::parallel_for(0, logits.rows, grain, [&](int64_t begin, int64_t end) {
    Softmax softmax;
    for (int64_t b = begin; b < end; ++b) {
      softmax(logits.at(b, 0), logits.cols, labels[b]);
      f(b, softmax);
    }
  });
}

inline void check_labels(const Device&, const int64_t* labels, int64_t rows, int64_t classes) {
  for (int64_t b = 0; b < rows; ++b)
    STD_TORCH_CHECK(labels[b] >= 0 && labels[b] < classes, "labels must be 0 to ", classes - 1, ", got ", labels[b]);
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
    const auto& p = softmax.p;
    const Wide<T>* t = tangent.at(b, 0);
    const double top = t[std::max_element(p.begin(), p.end()) - p.begin()];
    double mean = 0.0;
    for (int64_t k = 0; k < logits.cols; ++k) mean += p[k] * (t[k] - top);
    for (int64_t k = 0; k < logits.cols; ++k)
      out[b * logits.cols + k] = static_cast<Wide<T>>(p[k] * (t[k] - top - mean) / logits.rows);
  });
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { sgr::CrossEntropy<sgr::cpu::Device>::implement(m); }
