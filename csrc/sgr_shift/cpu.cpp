#include "sgr_shift/kernel.h"
#include "sgr_shift/operator.h"

STABLE_TORCH_LIBRARY_IMPL(sgr, CPU, m) { m.impl("sgr_shift", SGR_BOX(&sgr::sgr_shift<sgr::cpu::Device>)); }
