// BF16 by BF16 on Hopper's tensor cores, summed in FP32 by the tensor cores themselves.
//
//   roofline: 989 TFLOP/s on paper; about 800 where the chip's power limit lets 8192^3 run
#include "cuda/gemm_hopper.cuh"

namespace fathom::cuda {

void gemm_bf16(const Launch& on, const GemmParams& p, GemmTile tile) {
  multiply_tiles<Code::bf16>(on, p, tile);
}

}  // namespace fathom::cuda
