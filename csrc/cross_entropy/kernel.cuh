// Cross entropy, its gradient and its Hessian times a tangent, for logits (B, K).
//
// The label is kept apart from the other classes: where it dominates, their small sum is all that the loss and the
// gradient consist of, and p_y - 1 would leave nothing of it. Everything is computed in double: exponents of logits 60
// apart would cost a float32 sum two digits. A row belongs to a team, a warp or a block, and is read a few times, the
// first time from memory. The exponentials and not the reads take the time, so there are no packs here. A label out of
// range makes all results of its row NaN.
#pragma once

#include <cmath>

#include "common/launch.cuh"

namespace sgr::cuda {

// labels: (rows).
template <typename T>
struct Logits {
  Rows<T> z;
  const int64_t* labels;

  __device__ bool has_label(int64_t row) const { return labels[row] >= 0 && labels[row] < z.cols; }
};

struct Largest {
  __device__ double operator()(double a, double b) const { return fmax(a, b); }
};

struct Plus {
  __device__ double operator()(double a, double b) const { return a + b; }
};

// The threads that work on a row.
template <bool whole_block>
struct RowTeam {
  __device__ static int threads() { return whole_block ? static_cast<int>(blockDim.x) : 32; }
  __device__ static int index() { return static_cast<int>(threadIdx.x) % threads(); }
  __device__ static int64_t first_row() { return blockIdx.x * per_block() + threadIdx.x / threads(); }
  __device__ static int64_t row_step() { return gridDim.x * per_block(); }

  // use(k, logit) for every class of a row but the label.
  template <typename T, typename Use>
  __device__ static void for_each_other(const Logits<T>& in, int64_t row, const Use& use) {
    const T* z = in.z.at(row, 0);
    const int64_t label = in.labels[row];
#pragma unroll 4
    for (int64_t k = index(); k < in.z.cols; k += threads()) {
      const double value = to_double(load_global<T, 1>(z + k).value[0]);
      if (k != label) use(k, value);
    }
  }

  // The values of all threads combined, in every thread.
  template <typename Combine>
  __device__ static double reduce(double value, const Combine& combine) {
    for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
    if constexpr (whole_block) {
      auto& partial = scratch().warp;
      __syncthreads();  // the previous result may still be being read
      if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32][0] = value;
      __syncthreads();
      value = partial[0][0];
      for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) value = combine(value, partial[warp][0]);
    }
    return value;
  }

 private:
  __device__ static int64_t per_block() { return blockDim.x / threads(); }
};

// What is known of a row after its sums.
struct RowSoftmax {
  double shift, scale;  // p_k = scale exp(z_k - shift) for k != label
  double p_label, p_others;
  double loss;
};

template <typename T>
__device__ inline double own_logit(const Logits<T>& in, int64_t row) {
  return in.has_label(row) ? to_double(load_global<T, 1>(in.z.at(row, in.labels[row])).value[0]) : NAN;
}

// Largest logit but that of the label. Leaves NaN out: the exponentials bring it back, as they do for Inf.
template <typename Team, typename T>
__device__ inline double largest_other(const Logits<T>& in, int64_t row) {
  double largest = -INFINITY;
  Team::for_each_other(in, row, [&](int64_t, double other) { largest = fmax(largest, other); });
  return Team::reduce(largest, Largest{});
}

// add(k, e) sees e = exp(z_k - shift) of every class but the label.
template <typename Team, typename T, typename Add>
__device__ inline RowSoftmax row_softmax(const Logits<T>& in, int64_t row, double own, double largest, const Add& add) {
  const double shift = largest == -INFINITY ? 0.0 : largest;  // all others may be masked
  double sum = 0.0;
  Team::for_each_other(in, row, [&](int64_t k, double other) {
    const double e = exp(other - shift);
    sum += e;
    add(k, e);
  });
  sum = Team::reduce(sum, Plus{});
  const double top = fmax(largest, own), e_own = exp(own - top), e_largest = exp(largest - top);
  const double total = e_own + sum * e_largest;
  const double loss = own == top ? log1p(sum * e_largest / e_own) : top - own + log(total);
  return {shift, e_largest / total, e_own / total, sum * e_largest / total, loss};
}

// The most likely class, -1 if that cannot be said.
template <typename Team, typename T>
__device__ inline int64_t likeliest(const Logits<T>& in, int64_t row, double own, double largest) {
  if (own >= largest) return in.labels[row];
  double last = -1.0;
  Team::for_each_other(in, row, [&](int64_t k, double other) {
    if (other == largest) last = static_cast<double>(k);
  });
  return static_cast<int64_t>(Team::reduce(last, Largest{}));
}

// row_loss: (rows). ticket: one number, zero before the launch. loss: one number, the sum of row_loss. gradient:
// (rows, cols) contiguous.
template <typename T, bool whole_block>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    cross_entropy_kernel(Logits<T> in, double* row_loss, unsigned* ticket, Wide<T>* loss, Wide<T>* gradient) {
  using Team = RowTeam<whole_block>;
  const double batch = static_cast<double>(in.z.rows);
  for (int64_t row = Team::first_row(); row < in.z.rows; row += Team::row_step()) {
    const RowSoftmax p =
        row_softmax<Team>(in, row, own_logit(in, row), largest_other<Team>(in, row), [](int64_t, double) {});
    const double scale = p.scale / batch;
    Wide<T>* to = gradient + row * in.z.cols;
    Team::for_each_other(in, row, [&](int64_t k, double z) { to[k] = static_cast<Wide<T>>(scale * exp(z - p.shift)); });
    if (Team::index() > 0) continue;
    if (in.has_label(row)) to[in.labels[row]] = static_cast<Wide<T>>(-p.p_others / batch);
    row_loss[row] = p.loss / batch;
  }
  __syncthreads();  // other threads than the one that takes the ticket have written losses
  if (last_to_arrive(ticket, gridDim.x)) sum_numbers(row_loss, in.z.rows, loss);
}

// out: (rows, cols) contiguous.
template <typename T, bool whole_block>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    cross_entropy_hvp_kernel(Logits<T> in, Rows<Wide<T>> tangent, Wide<T>* out) {
  using Team = RowTeam<whole_block>;
  const double batch = static_cast<double>(in.z.rows);
  for (int64_t row = Team::first_row(); row < in.z.rows; row += Team::row_step()) {
    const double own = own_logit(in, row), largest = largest_other<Team>(in, row);
    const Wide<T>* t = tangent.at(row, 0);
    // Tangents are taken against that of the likeliest class: its own result is p_k (t_k - mean) with p_k near 1, and
    // cancels otherwise.
    const int64_t top = likeliest<Team>(in, row, own, largest);
    const double t_top = top >= 0 ? t[top] : NAN, t_label = in.has_label(row) ? t[in.labels[row]] - t_top : NAN;
    double mean = 0.0;
    const RowSoftmax p =
        row_softmax<Team>(in, row, own, largest, [&](int64_t k, double e) { mean += e * (t[k] - t_top); });
    mean = Team::reduce(mean, Plus{}) * p.scale + p.p_label * t_label;
    const double scale = p.scale / batch;
    Wide<T>* to = out + row * in.z.cols;
    Team::for_each_other(in, row, [&](int64_t k, double z) {
      to[k] = static_cast<Wide<T>>(scale * exp(z - p.shift) * (t[k] - t_top - mean));
    });
    if (Team::index() == 0 && in.has_label(row))
      to[in.labels[row]] = static_cast<Wide<T>>(p.p_label * (t_label - mean) / batch);
  }
}

// To look at labels would wait for the device.
template <class Device>
void check_labels(const Device&, const int64_t*, int64_t, int64_t) {}

// Launches the first kernel with several rows in a block, or the second with a block for every row if rows are long.
template <typename T, typename Kernel, typename... Arguments>
void launch_teams(Kernel by_warps, Kernel by_blocks, cudaStream_t stream, const Logits<T>& in,
                  const Arguments&... arguments) {
  constexpr int64_t short_row = 256, rows_per_block = 4;
  const bool whole_block = in.z.cols > short_row;
  const Launch launch{grid_for(whole_block ? in.z.rows : ceil_div(in.z.rows, rows_per_block)),
                      whole_block ? kMaxThreads : static_cast<int>(32 * rows_per_block)};
  launch_kernel(whole_block ? by_blocks : by_warps, launch, stream, in, arguments...);
}

// loss: one number, the mean. gradient: (rows, cols) contiguous. Neither rows nor cols may be 0.
template <class Device, typename T>
void run_cross_entropy(Device& device, const Rows<T>& logits, const int64_t* labels, Wide<T>* loss,
                       Wide<T>* gradient) {
  double* row_loss = device.workspace(logits.rows + 1);
  auto* ticket = reinterpret_cast<unsigned*>(row_loss + logits.rows);
  check(cudaMemsetAsync(ticket, 0, sizeof(*ticket), device.stream()));
  launch_teams(cross_entropy_kernel<T, false>, cross_entropy_kernel<T, true>, device.stream(),
               Logits<T>{logits, labels}, row_loss, ticket, loss, gradient);
}

// out: (rows, cols) contiguous. Neither rows nor cols may be 0.
template <class Device, typename T>
void run_cross_entropy_hvp(Device& device, const Rows<T>& logits, const int64_t* labels, const Rows<Wide<T>>& tangent,
                           Wide<T>* out) {
  launch_teams(cross_entropy_hvp_kernel<T, false>, cross_entropy_hvp_kernel<T, true>, device.stream(),
               Logits<T>{logits, labels}, tangent, out);
}

}  // namespace sgr::cuda
