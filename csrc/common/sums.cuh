// The sums of a row of which everything else is made, and their weights.
#pragma once

#include <cmath>

#include "common/row_math.h"
#include "common/rows.cuh"

namespace sgr::cuda {

// What a sweep over a row adds up: dd = sum delta^2, gg = sum target^2 and a third sum.
enum class Sums {
  kProducts,      // dd, gg, sum delta target
  kNorms,         // dd, gg, 0
  kUnitDistance,  // 0, 0, sum (delta / |delta| - target / |target|)^2
  kDistance       // dd, 0, sum (delta - target)^2
};

// The first (or only) sweep. 1 - c from sums of products has an absolute error of 1e-16: nothing for a float32 loss,
// but float64 loses digits where rows are near-parallel, and so takes norms first and the distance of unit rows after.
template <typename T, bool normalize>
constexpr Sums kFirstSums = !normalize                  ? Sums::kDistance
                            : std::is_same_v<T, double> ? Sums::kNorms
                                                        : Sums::kProducts;

// The rows are delta and target.
template <Sums kind, typename T, int width>
__device__ inline void add_pair(const Packs<T, width, 2>& pair, double d_scale, double g_scale, double (&sums)[3]) {
#pragma unroll
  for (int k = 0; k < width; ++k) {
    const double d = to_double(pair.row[0].value[k]), g = to_double(pair.row[1].value[k]);
    if constexpr (kind != Sums::kUnitDistance) sums[0] += d * d;
    if constexpr (kind == Sums::kProducts || kind == Sums::kNorms) sums[1] += g * g;
    if constexpr (kind == Sums::kProducts) sums[2] += d * g;
    if constexpr (kind == Sums::kDistance) sums[2] += (d - g) * (d - g);
    if constexpr (kind == Sums::kUnitDistance) {
      const double difference = d_scale * d - g_scale * g;
      sums[2] += difference * difference;
    }
  }
}

// sums[2] is the third sum of the last sweep.
template <typename T, bool normalize>
__device__ inline RowCoef finish_row(const double (&sums)[3], const Options& options) {
  constexpr bool half_distance = kFirstSums<T, normalize> == Sums::kNorms;
  return sgr::finish_row(sums[0], sums[1], half_distance ? 0.5 * sums[2] : sums[2], normalize, half_distance, options);
}

// alpha delta + beta target of the rows delta, target, ..., rounded once. A dead row gives 0 even where it holds Inf.
template <typename Out, typename T, int width, int rows>
__device__ inline Pack<Out, width> combine_pair(const Packs<T, width, rows>& in, double alpha, double beta,
                                                bool dead) {
  Pack<Out, width> out;
#pragma unroll
  for (int k = 0; k < width; ++k) {
    const double value = alpha * to_double(in.row[0].value[k]) + beta * to_double(in.row[1].value[k]);
    from_double(dead ? 0.0 : value, &out.value[k]);
  }
  return out;
}

}  // namespace sgr::cuda
