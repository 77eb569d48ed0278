#include "sgr_loss/kernel.h"
#include "sgr_loss/operator.h"
#include "sgr_shift/kernel.h"

namespace sgr::cpu {

template <typename T>
void run_sgr_loss(const Device&, const RowSet<T, 2>& in, const Options& options, double* coef, Wide<T>* loss) {
  double sum = 0.0;
  row_coefficients(in, options, coef, &sum);
  *loss = static_cast<Wide<T>>(sum);
}

}  // namespace sgr::cpu

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) {
  m.impl("sgr_loss", SGR_BOX(&sgr::sgr_loss<sgr::cpu::Device>));
  m.impl("sgr_loss_backward", SGR_BOX(&sgr::sgr_loss_backward<sgr::cpu::Device>));
}
