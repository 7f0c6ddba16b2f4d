#include "cuda/tensor_map.h"

#include "cuda/check.h"
#include "src/base/error.h"

namespace fathom::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                            CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// Through the runtime, so that the binary starts on a machine without libcuda.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  FATHOM_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                               &found));
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw Error(Exit::unsupported, "the NVIDIA driver has no tensor maps (cuTensorMapEncodeTiled)",
                "install a driver for CUDA 12 or newer, or use --backend cpu");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap make_tensor_map(const TensorShape& t) {
  static const Encode encode = find_encode();
  CUtensorMap map{};
  const cuuint64_t sizes[3] = {t.columns, t.rows, t.slices};
  const cuuint64_t strides[2] = {t.row_bytes, t.slice_bytes};
  const cuuint32_t box[3] = {t.box_columns, t.box_rows, 1}, steps[3] = {1, 1, 1};
  const CUresult code = encode(&map, t.type, t.slices > 0 ? 3 : 2, const_cast<void*>(t.data), sizes, strides,
                               box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                               t.swizzle ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code != CUDA_SUCCESS)
    fail(Exit::compute,
         "cuTensorMapEncodeTiled: error {} for {} x {} x {}, rows of {} bytes, slices of {} bytes",
         static_cast<int>(code), t.slices, t.rows, t.columns, t.row_bytes, t.slice_bytes);
  return map;
}

}  // namespace fathom::cuda
