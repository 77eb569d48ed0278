// sgr_residual on the CPU: the sweeps of sgr_loss, block by block, so that the second one finds the rows in the cache.
#include "common/cpu.h"
#include "sgr_loss/sweeps.h"
#include "sgr_residual/sgr_residual.h"

namespace sgr::cpu {

constexpr int64_t kCacheBlock = 262144;  // elements

template <typename T>
void run_sgr_residual(const Device&, const RowPair<T>& in, const Options& options, Wide<T>* loss, Wide<T>* v) {
  const int64_t block = std::max<int64_t>(1, kCacheBlock / in.cols());
  double sum = 0.0;
  for (int64_t first = 0; first < in.rows(); first += block) {
    const int64_t last = std::min(in.rows(), first + block);
    const auto rows = row_coefficients(in, first, last, options);
    for (const auto& row : rows) sum += row.loss;
    combine(in, first, last, [&](int64_t b) { return std::pair(rows[b - first].alpha, rows[b - first].beta); }, v);
  }
  *loss = static_cast<Wide<T>>(sum);
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { sgr::SgrResidual<sgr::cpu::Device>::implement(m); }
