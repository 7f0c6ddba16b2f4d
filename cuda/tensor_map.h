// Tensor maps: a row-major tensor in global memory as Hopper's copy engine sees it.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace fathom::cuda {

// Copies beyond its sizes read zeros.
struct TensorShape {
  const void* data = nullptr;  // 16-byte aligned
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  std::uint64_t columns = 0, rows = 0;
  std::uint64_t slices = 0;                      // 0: a matrix, without the third coordinate
  std::uint64_t row_bytes = 0, slice_bytes = 0;  // between neighbours: multiples of 16
  std::uint32_t box_columns = 0, box_rows = 0;   // of one copy
  bool swizzle = true;  // boxes of 128-byte rows whose 16-byte units are permuted as wgmma expects
};
// Errors: compute, unsupported (a driver without tensor maps).
CUtensorMap make_tensor_map(const TensorShape& shape);

}  // namespace fathom::cuda
