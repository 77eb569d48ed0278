// sgr_kernels._C: what this build contains. Free of torch headers, so that it loads beside every torch.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about the compiled part of sgr_kernels.";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["version"] = SGR_VERSION;
        info["compiler"] = SGR_COMPILER;
        info["cuda_version"] = SGR_CUDA_VERSION;
        info["cuda_archs"] = SGR_CUDA_ARCHS;
        info["cpu_reason"] = "";
        info["cuda_reason"] = SGR_CUDA_REASON;
        return info;
      },
      "Version, compiler, CUDA version and architectures of this build (empty without CUDA); why CUDA was left out.");
}
