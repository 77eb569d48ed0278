// What the C interfaces of the launchers share.
#pragma once

#include "sgr/cuda/rows.cuh"

using namespace sgr::cuda;

struct Input {
  int dtype;
  const void* delta;
  const void* target;
  int64_t rows, cols, delta_stride, target_stride;
};

template <typename T>
static Rows<T> rows_of(const Input& in) {
  return {static_cast<const T*>(in.delta), static_cast<const T*>(in.target), in.rows, in.cols, in.delta_stride,
          in.target_stride};
}

template <typename F>
static int dispatch(int dtype, const F& f) {
  switch (dtype) {
    case 0: return f(double{});
    case 1: return f(float{});
    case 2: return f(__nv_bfloat16{});
    default: return f(__half{});
  }
}
