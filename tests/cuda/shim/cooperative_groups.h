#pragma once

#include "machine.h"

namespace cooperative_groups {

struct cluster_group {
  void sync() const { cuda_shim::wait(cuda_shim::current().block->cluster->barrier); }

  template <typename T>
  T* map_shared_rank(T* address, int rank) const {
    const auto& block = *cuda_shim::current().block;
    const auto offset = reinterpret_cast<const unsigned char*>(address) - block.shared;
    return reinterpret_cast<T*>(block.cluster->blocks[rank].shared + offset);
  }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
