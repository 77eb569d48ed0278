// How CPU operators work through rows: cut into segments for torch's thread pool, with sums that do not depend on the
// number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "common/parallel.h"
#include "common/types.h"

namespace sgr::cpu {

// Segments are the unit of work of a thread. They begin at places that depend on the length of a row alone. A row has
// at most kMaxSegments of them, so that partial sums take no memory to speak of.
constexpr int64_t kSegment = 16384;
constexpr int64_t kMaxSegments = 256;
// Stretch that one serial sum runs over. Float64 input gets short ones, because there the rounding of the sums
// themselves is what limits the result.
template <typename T>
constexpr int64_t kStretch = std::is_same_v<T, double> ? 128 : kSegment;

inline int64_t segment_length(int64_t cols) {
  return kSegment * std::max<int64_t>(1, ceil_div(cols, kSegment * kMaxSegments));
}

// f(row, segment, first column, length) for every segment of all rows.
template <typename F>
void for_each_segment(int64_t rows, int64_t cols, const F& f) {
  const int64_t length = segment_length(cols), segments = ceil_div(cols, length);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::min(cols, length));
  parallel_for(0, rows * segments, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t segment = task % segments, column = segment * length;
      f(task / segments, segment, column, std::min(length, cols - column));
    }
  });
}

// The sums f(column, length) of the stretches of a segment, added as a binary tree: the error grows with the logarithm
// of their number.
template <typename T, int width, typename F>
std::array<double, width> tree_sum(int64_t column, int64_t length, const F& f) {
  if (length <= kStretch<T>) return f(column, length);
  const int64_t half = ceil_div(length, 2 * kStretch<T>) * kStretch<T>;
  auto sums = tree_sum<T, width>(column, half, f);
  const auto rest = tree_sum<T, width>(column + half, length - half, f);
  for (int i = 0; i < width; ++i) sums[i] += rest[i];
  return sums;
}

// The same tree over partial sums that are `width` apart.
template <int width>
double tree_sum(const double* x, int64_t count) {
  if (count == 1) return *x;
  const int64_t half = count / 2;
  return tree_sum<width>(x, half) + tree_sum<width>(x + half * width, count - half);
}

// Totals (rows, width) of the sums f(row, column, length) of rows of T.
template <typename T, int width, typename F>
std::vector<double> row_totals(int64_t rows, int64_t cols, const F& f) {
  const int64_t segments = ceil_div(cols, segment_length(cols));
  std::vector<double> partial(rows * segments * width), total(rows * width);
  for_each_segment(rows, cols, [&](int64_t b, int64_t segment, int64_t column, int64_t length) {
    const auto sums = tree_sum<T, width>(column, length, [&](int64_t at, int64_t count) { return f(b, at, count); });
    std::copy(sums.begin(), sums.end(), &partial[(b * segments + segment) * width]);
  });
  for (int64_t i = 0; i < rows * width; ++i)
    total[i] = tree_sum<width>(&partial[i / width * segments * width + i % width], segments);
  return total;
}

}  // namespace sgr::cpu
