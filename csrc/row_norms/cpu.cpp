#include "row_norms/kernel.h"
#include "row_norms/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { m.impl("row_norms", SGR_BOX(&sgr::row_norms<sgr::cpu::Device>)); }
