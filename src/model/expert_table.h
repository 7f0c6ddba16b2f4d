// Where each routed expert of a layer lives. Kernels take the table, never base plus stride, so that an expert may
// move (host, GPU cache, another GPU) without a kernel changing.
#pragma once

#include <vector>

#include "src/model/linear.h"

namespace fathom {

// host: mapped or allocated host memory; otherwise the ordinal of a GPU among those the run uses.
struct Device {
  int ordinal = -1;
  static constexpr Device host() { return {-1}; }
  static constexpr Device gpu(int ordinal) { return {ordinal}; }
  bool is_host() const { return ordinal < 0; }
  bool operator==(const Device&) const = default;
};

// down(silu(gate x) * up x). gate and up: (moe_intermediate_size, hidden_size); down: (hidden_size,
// moe_intermediate_size). Under tensor parallelism: this rank's rows of gate and up and columns of down.
struct Expert {
  Linear gate, up, down;
  Device device = Device::host();
};

struct ExpertTable {
  std::vector<Expert> experts;  // by expert id, n_routed_experts entries
};

}  // namespace fathom
