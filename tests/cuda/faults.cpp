// Kernels with one fault each, and sound ones beside them: does the machine notice?
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

static double* shared() {
  SGR_DYNAMIC_SHARED(memory);
  return reinterpret_cast<double*>(memory);
}

// Every thread reads what its neighbour wrote.
template <bool barrier>
static void exchange(double* out) {
  shared()[threadIdx.x] = threadIdx.x;
  if (barrier) __syncthreads();
  out[threadIdx.x] = shared()[(threadIdx.x + 32) % blockDim.x];
}

// Every thread copies a number through shared memory.
template <bool wait>
static void copy_through(double* out) {
  __pipeline_memcpy_async(shared() + threadIdx.x, out + threadIdx.x, sizeof(double));
  __pipeline_commit();
  if (wait) __pipeline_wait_prior(0);
  out[64 + threadIdx.x] = shared()[threadIdx.x];
}

// Every block waits for those before it, or for those after it.
template <bool before>
static void wait_for_others(double* out) {
  if (threadIdx.x > 0) return;
  const unsigned mine = before ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
  while (*const_cast<volatile double*>(out) < mine) __nanosleep(1);
  *out += 1.0;
}

template <bool fence>
static void take_ticket(double*, unsigned* ticket) {
  if (fence) __threadfence();
  atomicAdd(ticket, 1u);
}

// Another thread than the one that takes the ticket has written what the last block reads.
template <bool barrier>
static void sum_of_blocks(double* out, unsigned* ticket) {
  if (threadIdx.x == 32) out[blockIdx.x] = 1.0;
  if (barrier) __syncthreads();
  bool last = false;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(ticket, 1u) == gridDim.x - 1;
  }
  if (__syncthreads_or(last) && threadIdx.x == 0) out[2] = out[0] + out[1];
}

static void overflow(double*) { shared()[blockDim.x] = 1.0; }

static void divergent(double*) {
  if (threadIdx.x < 32) __syncthreads();
}

static void misaligned(double* out) {
  __stwb(reinterpret_cast<uint4*>(out + 1), uint4{0, 0, 0, 0});
}

extern "C" {

// out: 128 numbers, 16-byte aligned. schedule: see machine.h.
int run_fault(int fault, int schedule, double* out) {
  cuda_shim::device.schedule = schedule;
  cuda_shim::device.in_order = fault == 12 || fault == 13;
  cudaLaunchConfig_t config;
  config.gridDim = dim3(1);
  config.blockDim = dim3(64);
  config.dynamicSmemBytes = 64 * sizeof(double);
  unsigned ticket = 0;
  if (fault >= 12) config.gridDim = dim3(100);
  if (fault == 10 || fault == 11) config.gridDim = dim3(2);
  switch (fault) {
    case 0: return cudaLaunchKernelEx(&config, exchange<true>, out);
    case 1: return cudaLaunchKernelEx(&config, exchange<false>, out);
    case 2: return cudaLaunchKernelEx(&config, copy_through<true>, out);
    case 3: return cudaLaunchKernelEx(&config, copy_through<false>, out);
    case 4: return cudaLaunchKernelEx(&config, take_ticket<true>, out, &ticket);
    case 5: return cudaLaunchKernelEx(&config, take_ticket<false>, out, &ticket);
    case 6: return cudaLaunchKernelEx(&config, overflow, out);
    case 7: return cudaLaunchKernelEx(&config, divergent, out);
    case 8: return cudaLaunchKernelEx(&config, misaligned, out);
    case 10: return cudaLaunchKernelEx(&config, sum_of_blocks<true>, out, &ticket);
    case 11: return cudaLaunchKernelEx(&config, sum_of_blocks<false>, out, &ticket);
    case 12:
    case 14: return cudaLaunchKernelEx(&config, wait_for_others<true>, out);
    case 13: return cudaLaunchKernelEx(&config, wait_for_others<false>, out);
    default: config.dynamicSmemBytes = 64 * 1024; return cudaLaunchKernelEx(&config, exchange<true>, out);
  }
}

}  // extern "C"
