// row_norms on the CPU.
#include <cmath>

#include "common/cpu.h"
#include "common/segments.h"
#include "row_norms/kernel.h"
#include "row_norms/row_norms.h"

namespace sgr::cpu {

template <typename T>
void run_row_norms(const Device&, const Rows<T>& in, double* norms) {
  const auto squares = row_totals<T, 1>(0, in.rows, in.cols, [&](int64_t b, int64_t column, int64_t length) {
    return std::array{row_square(in.at(b, column), length)};
  });
  for (int64_t b = 0; b < in.rows; ++b) norms[b] = std::sqrt(squares[b]);
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { sgr::RowNorms<sgr::cpu::Device>::implement(m); }
