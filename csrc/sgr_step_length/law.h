// What a row adds to the length of a step, and the length from the sums. Shared by the CPU and the CUDA kernels; free of
// torch. sgr_kernels/engines/step_length.py says why it is so.
#pragma once

#include <cmath>

#include "common/types.h"

namespace sgr {

// The arguments, all in double. coef: alpha, beta, alpha_target and |v_b|, (4, rows). Norms, (rows): of x and of delta;
// (outputs): of the output and of its gradient, null where there is none.
struct StepRows {
  const double *coef, *x, *delta, *output, *delta_output;
  int64_t rows, outputs;
};

struct Law {
  double size_ratio, typical, longest, gain_power, most;
};

// Sums over rows, and the furthest that a row goes.
struct StepSums {
  double weighted = 0.0, weight = 0.0, of_loss = 0.0;  // |delta| rho^2, |delta|, what the parts of v do to the loss
  double x = 0.0, delta = 0.0;                        // squares
  double output = 0.0, delta_output = 0.0;            // squares, over the rows of the output
  double furthest = 0.0;                              // rho; a NaN is in `weighted`
};

// NaN where one of them is.
SGR_HOST_DEVICE inline double smaller(double a, double b) { return a < b || a != a ? a : b; }

// rho: |v| / |x|, times the gain of the sample where that is below 1; where x is 0, |v| times the gain, in which |x|
// cancels.
SGR_HOST_DEVICE inline double relative_length(const StepRows& in, int64_t b, const Law& law) {
  const double length = in.coef[3 * in.rows + b], x = in.x[b];
  if (in.output == nullptr || in.outputs != in.rows) return x == 0.0 ? 0.0 : length / x;
  const double per_value = law.size_ratio * in.delta[b] / (in.output[b] * in.delta_output[b]);
  if (x == 0.0) {
    const double at_zero = length * per_value;
    return fabs(at_zero) < INFINITY ? at_zero : 0.0;
  }
  const double gain = per_value * x;
  return gain < 1.0 ? pow(gain, law.gain_power) * (length / x) : length / x;  // 1 for NaN
}

SGR_HOST_DEVICE inline void add_row(const StepRows& in, int64_t b, const Law& law, StepSums& sums) {
  const double rho = relative_length(in, b, law), x = in.x[b], delta = in.delta[b];
  const double length = in.coef[3 * in.rows + b], along = fabs(in.coef[b]) * delta;
  sums.weighted += delta * (rho * rho);
  sums.weight += delta;
  sums.of_loss += smaller(length, along) * delta;  // |v| is short where the parts cancel
  sums.x += x * x;
  sums.delta += delta * delta;
  sums.furthest = rho > sums.furthest ? rho : sums.furthest;
}

SGR_HOST_DEVICE inline void add_output(const StepRows& in, int64_t b, StepSums& sums) {
  sums.output += in.output[b] * in.output[b];
  sums.delta_output += in.delta_output[b] * in.delta_output[b];
}

// 1 / h, 0 where v is 0.
SGR_HOST_DEVICE inline double inverse_length(const StepRows& in, const StepSums& sums, double loss, const Law& law) {
  const double tiny = 2.2250738585072014e-308;
  const double rms = sqrt(sums.weighted / (sums.weight < tiny ? tiny : sums.weight));
  double gain = 1.0;
  if (in.output != nullptr) {
    const double before = sqrt(sums.x) * sqrt(sums.delta), after = sqrt(sums.output) * sqrt(sums.delta_output);
    gain = after == 0.0 ? 1.0 : before / after * law.size_ratio;
    gain = gain < 1.0 ? 1.0 : gain;
  }
  const double change = rms * pow(gain, law.gain_power);  // A
  const double of_loss = smaller(loss > 0.0 ? sums.of_loss / loss : 0.0, law.most * change);  // K
  const double total = sqrt(change * (change + of_loss)) / law.typical;
  const double bound = sums.furthest / law.longest;
  return bound > total ? bound : total;  // a NaN stays
}

// h, 0 where v is 0.
SGR_HOST_DEVICE inline double length_of(double inverse) {
  const double h = 1.0 / inverse;
  return fabs(h) == INFINITY ? 0.0 : h;
}

}  // namespace sgr
