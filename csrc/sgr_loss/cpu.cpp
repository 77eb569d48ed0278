// sgr_loss and sgr_loss_backward on the CPU.
#include "common/cpu.h"
#include "sgr_loss/sgr_loss.h"
#include "sgr_loss/sweeps.h"

namespace sgr::cpu {

template <typename T>
void run_sgr_loss(const Device&, const RowPair<T>& in, const Options& options, double* coef, Wide<T>* loss) {
  const int64_t batch = in.rows();
  const auto rows = row_coefficients(in, 0, batch, options);
  double sum = 0.0;
  for (int64_t b = 0; b < batch; ++b) {
    coef[b] = rows[b].alpha, coef[batch + b] = rows[b].beta, coef[2 * batch + b] = rows[b].alpha_target;
    sum += rows[b].loss;
  }
  *loss = static_cast<Wide<T>>(sum);
}

template <typename T>
void run_sgr_loss_backward(const Device&, const RowPair<T>& in, const double* alpha, const double* beta,
                           const Wide<T>* scale, T* out) {
  combine(in, 0, in.rows(), scaled_coefficients(alpha, beta, *scale), out);
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { sgr::SgrLoss<sgr::cpu::Device>::implement(m); }
