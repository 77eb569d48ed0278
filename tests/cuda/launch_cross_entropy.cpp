// The launchers of cross_entropy and cross_entropy_hvp behind a C interface, on the machine of shim/.
#include "cross_entropy/kernel.cuh"
#include "launch.h"

template <typename T>
static Logits<T> logits_of(const Matrix& logits, const int64_t* labels) {
  return {rows_of<T>(logits), labels};
}

extern "C" {

int64_t workspace_doubles(const Matrix* logits) { return cross_entropy_doubles(logits->rows); }

int cross_entropy(const Matrix* logits, const int64_t* labels, double* memory, void* loss, void* gradient) {
  return dispatch(logits->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_cross_entropy(logits_of<T>(*logits, labels), memory, static_cast<Wide<T>*>(loss),
                                static_cast<Wide<T>*>(gradient), nullptr);
  });
}

int cross_entropy_hvp(const Matrix* logits, const int64_t* labels, const Matrix* tangent, void* out) {
  return dispatch(logits->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_cross_entropy_hvp(logits_of<T>(*logits, labels), rows_of<Wide<T>>(*tangent),
                                    static_cast<Wide<T>*>(out), nullptr);
  });
}

}  // extern "C"
