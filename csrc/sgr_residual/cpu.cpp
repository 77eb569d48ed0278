#include "sgr_loss/kernel.h"
#include "sgr_residual/operator.h"
#include "sgr_shift/kernel.h"

namespace sgr::cpu {

// Block by block, so that the second sweep finds the rows in the cache.
template <typename T>
void run_sgr_residual(const Device& device, const RowSet<T, 2>& in, const Options& options, Wide<T>* loss,
                      Wide<T>* v) {
  constexpr int64_t cache_block = 262144;  // elements
  const int64_t block = std::clamp<int64_t>(cache_block / in.cols(), 1, in.rows());
  std::vector<double> coef(kCoefRows * block);
  double sum = 0.0;
  for (int64_t first = 0; first < in.rows(); first += block) {
    const auto some = in.slice(first, std::min(first + block, in.rows()));
    row_coefficients(some, options, coef.data(), &sum);
    run_combine(device, some, &coef[0], &coef[some.rows()], Number<Wide<T>>{1.0, nullptr}, v + first * in.cols());
  }
  *loss = static_cast<Wide<T>>(sum);
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { m.impl("sgr_residual", SGR_BOX(&sgr::sgr_residual<sgr::cpu::Device>)); }
