// What the C interfaces of the launchers share.
#pragma once

#include "common/rows.cuh"

using namespace sgr;
using namespace sgr::cuda;

struct Matrix {
  int dtype;
  const void* data;
  int64_t rows, cols, stride;
};

template <typename T>
static Rows<T> rows_of(const Matrix& in) {
  return {static_cast<const T*>(in.data), in.rows, in.cols, in.stride};
}

template <typename T>
static RowPair<T> row_pair(const Matrix& delta, const Matrix& target) {
  return {rows_of<T>(delta), rows_of<T>(target)};
}

template <typename F>
static auto dispatch(int dtype, const F& f) {
  switch (dtype) {
    case 0: return f(double{});
    case 1: return f(float{});
    case 2: return f(__nv_bfloat16{});
    default: return f(__half{});
  }
}
