// Backward of a ReLU: masked = grad where output > 0 (or NaN), else 0, and the sums of masked for every channel.
// Tensors are (R, C, S) contiguous; inputs are read once, masked is written once.
//
// Sums take two kernels: blocks leave partial sums of their part of a channel, then these are added up. Long slices
// (S large) are swept one by one. Where S is small, or 1, slices are too short for that: the tensor is a matrix of R
// rows and C S columns then, and adding up the columns of a channel is left to the second kernel. Parts depend on the
// shape (and on alignment) alone, and sums run over them in order.
#pragma once

#include "common/segments.cuh"

namespace sgr::cuda {

// grad, output, masked: (rows, channels, size) contiguous.
template <typename T>
struct ReluTensors {
  const T* grad;
  const T* output;
  T* masked;
  int64_t rows, channels, size;

  SGR_HOST_DEVICE int64_t columns() const { return channels * size; }
};

// How the work is cut.
struct ReluPlan {
  bool by_columns;
  int log_across;    // by columns: so many threads side by side, each with `width` columns
  int width;
  int64_t parts;     // of a channel, or of a column
  int64_t per_part;  // pieces of slices, or rows
  int64_t sums;      // partial sums of a channel

  SGR_HOST_DEVICE int across() const { return 1 << log_across; }
};

// add(k, value) for every element of the result.
template <typename T, int width, typename Add>
__device__ inline Pack<T, width> mask_pair(const Packs<T, width, 2>& grad_and_output, const Add& add) {
  Pack<T, width> masked = grad_and_output.row[0];
#pragma unroll
  for (int k = 0; k < width; ++k) {
    // Ask for closed gates, never for open ones: a NaN lets the gradient pass, and shows.
    if (to_double(grad_and_output.row[1].value[k]) <= 0.0) from_double(0.0, &masked.value[k]);
    add(k, to_double(masked.value[k]));
  }
  return masked;
}

// partial: (channels, parts), or null if sums are not wanted.
template <typename T, bool with_sums>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    relu_backward_slices_kernel(ReluTensors<T> in, ReluPlan plan, double* partial) {
  const int64_t segments = segments_of(in.size), pieces = in.rows * segments;
  for (int64_t item = blockIdx.x; item < in.channels * plan.parts; item += gridDim.x) {
    const int64_t channel = item % in.channels, part = item / in.channels;  // neighbours in memory at the same time
    const int64_t first = part * plan.per_part;  // more than one piece only where a slice is a single segment
    const int64_t count = pieces - first < plan.per_part ? pieces - first : plan.per_part;
    const int64_t column = first % segments * kSegment;
    const int length = static_cast<int>(in.size - column < kSegment ? in.size - column : kSegment);
    int64_t at = (first / segments * in.channels + channel) * in.size + column;
    double sum[1] = {0.0};
    for (int64_t piece = 0; piece < count; ++piece, at += in.channels * in.size) {
      const RowReader<T, 2> reader{{in.grad + at, in.output + at}};
      T* to = in.masked + at;
      sweep<T>(align(length, reader, to), reader, [&](int offset, const auto& pair) {
        store_global(to + offset, mask_pair(pair, [&](int, double value) { sum[0] += value; }));
      });
    }
    if constexpr (with_sums) {
      block_sum(sum);
      if (threadIdx.x == 0) partial[channel * plan.parts + part] = sum[0];
    }
  }
}

// Threads t, t + across, t + 2 across ... have sums of the same `width` columns. use(column, sum) for every column.
template <int width, typename Use>
__device__ inline void sum_columns(const double (&sums)[width], int across, const Use& use) {
  double* slots = reinterpret_cast<double*>(shared_data());
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // the previous sums may still be being read
#pragma unroll
  for (int k = 0; k < width; ++k) slots[k * threads + thread] = sums[k];
  __syncthreads();
  for (int i = thread; i < across * width; i += threads) {
    const int k = i / across, lane = i % across;  // in this order neither reads nor writes meet in a bank
    double sum = 0.0;
    for (int t = lane; t < threads; t += across) sum += slots[k * threads + t];
    use(lane * width + k, sum);
  }
}

// partial: (columns, parts).
template <typename T, int width>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    relu_backward_columns_kernel(ReluTensors<T> in, ReluPlan plan, double* partial) {
  const int group = plan.across() * width, lane = static_cast<int>(threadIdx.x) % plan.across();
  const int64_t columns = in.columns(), groups = ceil_div(columns, group);
  for (int64_t item = blockIdx.x; item < groups * plan.parts; item += gridDim.x) {
    const int64_t begin = item % groups * group, part = item / groups;
    const int64_t row = part * plan.per_part, rows = in.rows - row < plan.per_part ? in.rows - row : plan.per_part;
    const int64_t at = row * columns + begin + lane * width;
    const RowReader<T, 2> reader{{in.grad + at, in.output + at}};
    T* to = in.masked + at;
    double sums[width] = {};
    const auto place = [&](int i) { return (i >> plan.log_across) * static_cast<int>(columns); };
    if (begin + lane * width < columns) {
      sweep_packs<width>(reader, static_cast<int>(rows) * plan.across(), place, [&](int offset, const auto& pair) {
        store_global(to + offset, mask_pair(pair, [&](int k, double value) { sums[k] += value; }));
      });
    }
    sum_columns(sums, plan.across(), [&](int column, double sum) {
      if (begin + column < columns) partial[(begin + column) * plan.parts + part] = sum;
    });
  }
}

// sums[c] = sum of partial[c]. partial: (channels, count). sums: (channels).
template <typename Out>
__global__ void __launch_bounds__(kMaxThreads, kMinBlocks)
    relu_backward_sums_kernel(const double* partial, int64_t channels, int64_t count, Out* sums) {
  for (int64_t channel = blockIdx.x; channel < channels; channel += gridDim.x)
    sum_numbers(partial + channel * count, count, sums + channel);
}

constexpr int64_t kReluBlocks = 2048;  // enough for every device, and few enough to leave each something to do

inline ReluPlan plan_slices(int64_t rows, int64_t channels, int64_t size) {
  constexpr int64_t most = 8;  // slices that a block takes one after another
  const int64_t pieces = rows * segments_of(size);
  const int64_t wanted = ceil_div(pieces, ceil_div(kReluBlocks, channels));
  const int64_t per_part = segments_of(size) > 1 ? 1 : std::min(wanted, most);
  const int64_t parts = ceil_div(pieces, per_part);
  return {false, 0, 0, parts, per_part, parts};
}

template <typename T>
ReluPlan plan_columns(const ReluTensors<T>& in) {
  constexpr int64_t fewest_turns = 4;
  const int64_t columns = in.columns();
  const auto aligned = [&](const T* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool packed = columns % kPack<T> == 0 && aligned(in.grad) && aligned(in.output) && aligned(in.masked);
  const int width = packed ? kPack<T> : 1;
  int log_across = 0;
  while (log_across < 5 && (width << log_across) < columns) ++log_across;  // a warp at most
  const int64_t across = int64_t{1} << log_across;
  const int64_t wanted = ceil_div(in.rows, ceil_div(kReluBlocks, ceil_div(columns, across * width)));
  const int64_t longest = std::max<int64_t>(1, (int64_t{1} << 30) / columns);  // offsets in a part are int
  const int64_t per_part = std::min(std::max(wanted, fewest_turns * kMaxThreads / across), longest);
  const int64_t parts = ceil_div(in.rows, per_part);
  return {true, log_across, width, parts, per_part, parts * in.size};
}

// No dimension may be 0.
template <typename T>
ReluPlan plan_relu_backward(const ReluTensors<T>& in) {
  constexpr int64_t short_slice = 256;
  const bool by_columns = in.channels > 1 && in.size <= short_slice;
  return by_columns ? plan_columns(in) : plan_slices(in.rows, in.channels, in.size);
}

template <typename T>
void launch_columns(const ReluTensors<T>& in, const ReluPlan& plan, double* partial, cudaStream_t stream) {
  const int64_t groups = ceil_div(in.columns(), plan.across() * plan.width);
  const size_t slots = sizeof(double) * kMaxThreads * plan.width;
  const auto kernel = plan.width == 1 ? relu_backward_columns_kernel<T, 1> : relu_backward_columns_kernel<T, kPack<T>>;
  const Launch launch{grid_for(groups * plan.parts), kMaxThreads, sizeof(Scratch) + slots};
  launch_kernel(kernel, launch, stream, in, plan, partial);
}

template <typename T>
void launch_slices(const ReluTensors<T>& in, const ReluPlan& plan, double* partial, cudaStream_t stream) {
  const int threads = threads_for<T>(std::min(in.size, kSegment) / 2);  // two packs for each: a batch of sweep_packs
  const auto kernel = partial == nullptr ? relu_backward_slices_kernel<T, false> : relu_backward_slices_kernel<T, true>;
  launch_kernel(kernel, {grid_for(in.channels * plan.parts), threads}, stream, in, plan, partial);
}

// grad, output, masked: (rows, channels, size) contiguous. sums: (channels), or null if they are not wanted.
template <class Device, typename T>
void run_relu_backward(Device& device, const T* grad, const T* output, int64_t rows, int64_t channels, int64_t size,
                       T* masked, Wide<T>* sums) {
  ReluTensors<T> in{grad, output, masked, rows, channels, size};
  if (sums == nullptr || channels == 1) in = {grad, output, masked, 1, 1, rows * channels * size};
  const ReluPlan plan = plan_relu_backward(in);
  if (sums == nullptr) return launch_slices(in, plan, nullptr, device.stream());
  double* partial = device.workspace(channels * plan.sums);
  plan.by_columns ? launch_columns(in, plan, partial, device.stream())
                  : launch_slices(in, plan, partial, device.stream());
  const int threads = static_cast<int>(std::min<int64_t>(ceil_div(plan.sums, 32) * 32, kMaxThreads));
  launch_kernel(relu_backward_sums_kernel<Wide<T>>, {grid_for(channels), threads}, device.stream(), partial, channels,
                plan.sums, sums);
}

}  // namespace sgr::cuda
