#include <doctest/doctest.h>

#include <algorithm>

#include "src/base/tensor.h"
#include "src/engine/kv_cache.h"
#include "src/stage.h"

using namespace fathom;

namespace {

Config small_config() {
  Config c;
  c.num_hidden_layers = 3;
  c.first_k_dense_replace = 1;
  c.n_shared_experts = 1;
  c.router.n_routed_experts = 8;
  c.num_nextn_predict_layers = 1;
  c.kv_lora_rank = 6;
  c.qk_rope_head_dim = 2;
  return c;
}

}  // namespace

TEST_CASE("the stage table is in enum order and complete") {
  int i = 0;
  for (const StageRow& r : stage_table()) {
    CHECK(static_cast<int>(r.stage) == i++);
    CHECK_FALSE(r.name.empty());
    CHECK_FALSE(r.writes.empty());
    CHECK_FALSE(r.rounding.empty());
  }
  CHECK(i == kStages);
}

TEST_CASE("the stage list follows the config") {
  const Config c = small_config();
  const auto list = stage_list(c, Stack::main);
  const auto has = [&](Stage s, int layer) { return std::count(list.begin(), list.end(), Step{s, layer}) == 1; };
  CHECK(list.front() == Step{Stage::Embed, -1});
  CHECK(list.back() == Step{Stage::Logits, -1});
  CHECK(has(Stage::Dense, 0));
  CHECK_FALSE(has(Stage::Routed, 0));
  CHECK(has(Stage::Routed, 1));
  CHECK(has(Stage::Combine, 2));
  CHECK_FALSE(has(Stage::Dense, 2));
  const auto mtp = stage_list(c, Stack::mtp);
  CHECK(mtp.front() == Step{Stage::MtpInput, -1});
  CHECK(std::count(mtp.begin(), mtp.end(), Step{Stage::Routed, 3}) == 1);
}

TEST_CASE("the cache keeps rows as its type rounds them, tagged") {
  const Config c = small_config();
  const std::vector<float> row{1.0f, 1.00390625f, -3.14159265f, 0, 5, 6, 7, 1e-30f};
  std::vector<float> out(8);
  for (CacheType type : {CacheType::f32, CacheType::bf16}) {
    KvCache cache(c, type, 16, 2);
    CHECK(cache.row_values() == 8);
    CHECK(cache.tag({RowKind::latent, 1}, 1, 5) == RowTag{0, -1});
    cache.store({RowKind::latent, 1}, {1, 5}, row);
    cache.read({RowKind::latent, 1}, 1, 5, out);
    for (std::size_t i = 0; i < 8; ++i) CHECK(out[i] == (type == CacheType::f32 ? row[i] : round_to_bf16(row[i])));
    CHECK(cache.tag({RowKind::latent, 1}, 1, 5) == RowTag{1, 5});
    cache.read({RowKind::latent, 2}, 1, 5, out);
    CHECK(out[0] == 0.0f);
  }
}
