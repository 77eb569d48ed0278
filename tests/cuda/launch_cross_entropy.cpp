// cross_entropy and cross_entropy_hvp behind a C interface, on the machine of shim/.
#include "cross_entropy/kernel.cuh"
#include "launch.h"

extern "C" {

int cross_entropy(const Matrix* logits, const int64_t* labels, void* loss, void* gradient) {
  return run(logits->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_cross_entropy(device, rows_of<T>(*logits), labels, static_cast<Wide<T>*>(loss),
                      static_cast<Wide<T>*>(gradient));
  });
}

int cross_entropy_hvp(const Matrix* logits, const int64_t* labels, const Matrix* tangent, void* out) {
  return run(logits->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_cross_entropy_hvp(device, rows_of<T>(*logits), labels, rows_of<Wide<T>>(*tangent),
                          static_cast<Wide<T>*>(out));
  });
}

}  // extern "C"
