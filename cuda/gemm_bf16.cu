// BF16 by BF16 on Hopper's tensor cores, summed in FP32 by the tensor cores themselves.
//
//   roofline: 989 TFLOP/s on paper; about 800 where the chip's power limit lets 8192^3 run
#include "cuda/gemm_hopper.cuh"

namespace fathom::cuda {
namespace {

template <int Groups, int Halves, int Width, int Cluster, bool Pair = false>
void launch(const Launch& on, const GemmParams& p) {
  TilePlan plan;
  plan.p = p;
  launch_tiles<TileShape<Code::bf16, Groups, Halves, Width, Cluster, Pair>>(on, plan);
}

}  // namespace

void gemm_bf16(const Launch& on, const GemmParams& p, GemmTile tile) {
  if (p.rows == 0) return;
  const bool pair = p.up.rows > 0 && p.out2 == nullptr;
  switch (tile == GemmTile::automatic ? choose_tile(on, p) : tile) {
    case GemmTile::automatic:
    case GemmTile::rows128_columns256:
      return pair ? launch<2, 2, 128, 2, true>(on, p) : launch<2, 2, 128, 2>(on, p);
    case GemmTile::rows128_columns256_alone:
      return pair ? launch<2, 2, 128, 1, true>(on, p) : launch<2, 2, 128, 1>(on, p);
    case GemmTile::rows128_columns128:
      return launch<2, 1, 128, 2>(on, p);
    case GemmTile::rows128_columns128_alone:
      return launch<2, 1, 128, 1>(on, p);
    case GemmTile::rows128_columns64:
      return launch<2, 1, 64, 1>(on, p);
    case GemmTile::rows64_columns256:
      return pair ? launch<1, 2, 128, 1, true>(on, p) : launch<1, 2, 128, 1>(on, p);
    case GemmTile::rows64_columns32:
      return launch<1, 1, 32, 1>(on, p);
  }
}

}  // namespace fathom::cuda
