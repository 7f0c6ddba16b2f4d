// e4m3 by e4m3 on Hopper's tensor cores, activations scaled 1 x 128, weights 128 x 128.
//
//   roofline: 1,979 TFLOP/s on paper; about 1,480 where the chip's power limit lets 8192^3 run
#include "cuda/gemm_hopper.cuh"

namespace fathom::cuda {

void gemm_fp8(const Launch& on, const GemmParams& p, GemmTile tile) {
  multiply_tiles<Code::e4m3>(on, p, tile);
}

}  // namespace fathom::cuda
