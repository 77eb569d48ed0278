// The machine as the tests see it: set it up before a launch, ask it afterwards.
#include <cuda_runtime.h>

extern "C" {

void shim_set_device(const cuda_shim::Device* device) {
  cuda_shim::device = *device;
  cuda_shim::allowed.clear();
  cuda_shim::launches.clear();
  cuda_shim::traffic = {};
  cuda_shim::failure.clear();
}

int shim_launches() { return static_cast<int>(cuda_shim::launches.size()); }

void shim_launch(int index, cuda_shim::Shape* shape) { *shape = cuda_shim::launches[index]; }

void shim_traffic(cuda_shim::Traffic* traffic) { *traffic = cuda_shim::traffic; }

const char* shim_failure() { return cuda_shim::failure.c_str(); }

}  // extern "C"
