#include <doctest/doctest.h>

#include <string>

#include "src/base/error.h"
#include "src/engine/gpu_placement.h"
#include "src/model/checkpoint.h"

using namespace fathom;

namespace {

Config tiny(const std::string& name) { return read_config(FileSet::directory("tests/goldens/" + name)); }

PlacementRequest room_for(std::int32_t capacity) {
  PlacementRequest r;
  r.capacity = capacity;
  return r;
}

}  // namespace

TEST_CASE("a matrix takes its padded rows and the scales of its own blocks on a GPU") {
  Linear l;
  l.rows = 3;
  l.cols = 90;
  l.format = formats::bf16;
  CHECK(device_bytes(l) == 768);  // 3 rows of 192 bytes, rounded up to 256
  l.format = formats::f16;        // widened to F32: 3 rows of 368 bytes
  CHECK(device_bytes(l) == 1280);
  l.format = formats::fp8_f32;
  l.rows = 100;
  l.cols = 130;
  l.row0 = 100;  // rows 100 .. 199 of the whole lie in two scale blocks, as do 130 columns
  CHECK(device_bytes(l) == 100 * 144 + 192 + 256);
  CHECK(device_bytes(Linear{}) == 0);
}

TEST_CASE("the placement counts what a checkpoint of that shape holds, and the cache by position") {
  for (const char* name : {"v3", "v3-e8m0", "v2-lite", "v2", "moonlight", "kimi"}) {
    const Config c = tiny(name);
    const Weights shaped = weights_of_shape(c, c.fp8);
    const Checkpoint checkpoint = Checkpoint::open(FileSet::directory(std::string("tests/goldens/") + name));
    const Weights bound = bind_weights(checkpoint, c);
    CHECK(shaped.layers.size() == bound.layers.size());
    CHECK(shaped.layers[0].q_proj.rows == bound.layers[0].q_proj.rows);
    CHECK(shaped.layers.back().experts.experts.size() == bound.layers.back().experts.experts.size());
    const Placement p = place(c, bound, room_for(1000));
    CHECK(p.weights > static_cast<std::uint64_t>(bound.bytes_total));
    CHECK(p.bytes_per_position == static_cast<std::uint64_t>(c.num_hidden_layers) *
                                      static_cast<std::uint64_t>(device_row_values(c)) * 2);
    CHECK(p.cache >= p.bytes_per_position * 1000);
    CHECK(p.cache < p.bytes_per_position * 1000 + 256);
    CHECK(p.total() == p.weights + p.cache + p.workspace);
  }
}

TEST_CASE("a plan that does not fit is refused with needed, available and the largest context") {
  const Config c = tiny("v3");
  const Weights w = weights_of_shape(c, true);
  const Placement p = place(c, w, room_for(1'000'000));
  CHECK_NOTHROW(require_fit(p, p.total(), "a GPU"));
  const std::uint64_t available = p.total() - p.cache / 2;
  const std::int32_t fits = p.largest_capacity(available);
  CHECK(fits > 400'000);
  CHECK(place(c, w, room_for(fits)).total() <= available);
  CHECK(place(c, w, room_for(fits + 1000)).total() > available);
  try {
    require_fit(p, available, "a GPU");
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.code() == Exit::out_of_memory);
    CHECK(std::string(e.what()).find("a GPU") == 0);
    CHECK(e.remedy().find(fmt::format("--ctx {}", fits)) != std::string::npos);
  }
  try {
    require_fit(p, 1000, "a GPU");
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.remedy().find("--backend cpu") != std::string::npos);
  }
}

TEST_CASE("experts go to host memory when they are told to, or when they alone keep the plan from fitting") {
  const Config c = tiny("v3");
  const Weights w = weights_of_shape(c, true);
  const PlacementRequest request = room_for(4096);
  const auto choose = [&](ExpertPlace experts, std::uint64_t available, bool asked = true) {
    return choose_placement(c, w, request, experts, asked, available, "a GPU");
  };
  const Placement whole = place(c, w, request);
  CHECK(choose(ExpertPlace::automatic, whole.total()).host_experts == 0);
  const Placement split = choose(ExpertPlace::host, whole.total());
  CHECK(split.host_experts > 0);
  CHECK(split.weights < whole.weights);
  CHECK(split.weights + split.host_experts <= whole.weights);
  CHECK(split.workspace < whole.workspace);
  CHECK(split.text().find("in host memory") != std::string::npos);
  // One byte too few for the whole.
  CHECK(choose(ExpertPlace::automatic, whole.total() - 1).host_experts == split.host_experts);
  CHECK_THROWS_AS(choose(ExpertPlace::gpu, whole.total() - 1), Error);
  // A smaller context comes first where none was asked for.
  const Placement smaller = choose(ExpertPlace::automatic, whole.total() - 1, false);
  CHECK(smaller.host_experts == 0);
  CHECK(smaller.capacity < 4096);
  CHECK(smaller.capacity >= 1024);
  try {
    choose(ExpertPlace::automatic, 1000);
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.code() == Exit::out_of_memory);
    CHECK(e.remedy().find("--backend cpu") != std::string::npos);
  }
  // Of a checkpoint: what both hold is one expert or the other, to the byte.
  const Checkpoint checkpoint = Checkpoint::open(FileSet::directory("tests/goldens/v3"));
  const Weights bound = bind_weights(checkpoint, c);
  CHECK(expert_bytes_per_token(bound, c) > 0);
  CHECK(expert_bytes_per_token(bound, c) < bytes_read_per_token(bound, c));
}

TEST_CASE("a plan with the MTP layer counts its weights, its cache and its input") {
  const Config c = tiny("v3");
  REQUIRE(c.num_nextn_predict_layers > 0);
  PlacementRequest request = room_for(4096);
  const Weights without = weights_of_shape(c, true), with = weights_of_shape(c, true, true);
  const Placement plain = place(c, without, request);
  request.mtp = true;
  const Placement p = place(c, with, request);
  CHECK(with.mtp.size() == static_cast<std::size_t>(c.num_nextn_predict_layers));
  CHECK(p.weights > plain.weights);
  CHECK(p.bytes_per_position * static_cast<std::uint64_t>(c.num_hidden_layers) ==
        plain.bytes_per_position * static_cast<std::uint64_t>(c.num_hidden_layers + c.num_nextn_predict_layers));
  CHECK(p.work[static_cast<std::size_t>(Work::mtp_input)] > 0);
  CHECK(plain.work[static_cast<std::size_t>(Work::mtp_input)] == 0);
  // Tables of its own count, shared ones count once.
  Weights own = with;
  const std::byte table{};
  own.mtp[0].embed_tokens.data = own.mtp[0].head.data = &table;
  CHECK(place(c, own, request).weights == p.weights + 2 * device_bytes(own.embed_tokens));
  request.host_experts = true;
  const Placement host = place(c, with, request), host_plain = place(c, without, request);
  CHECK(host.host_experts > host_plain.host_experts);
  CHECK(host.weights < p.weights);
}

TEST_CASE("a plan says what to do where nothing fits, and what a model without experts cannot do") {
  Config c = tiny("v3");
  const Weights w = weights_of_shape(c, true);
  Placement none;
  CHECK(none.largest_capacity(1u << 30) == 0);  // a position takes no bytes: nothing was planned
  const auto refusal = [&](auto&& body) {
    try {
      body();
    } catch (const Error& e) {
      return std::pair(e.code(), std::string(e.what()) + " " + e.remedy());
    }
    return std::pair(Exit::ok, std::string());
  };
  const PlacementRequest request = room_for(4096);
  const auto host = refusal([&] { choose_placement(c, w, request, ExpertPlace::host, true, 1000, "a GPU"); });
  CHECK(host.first == Exit::out_of_memory);
  CHECK(host.second.find("beside the experts alone do not fit") != std::string::npos);
  // Not asked for, but under 1,024 positions: said instead of planned.
  const Placement whole = place(c, w, request);
  const std::uint64_t short_of = whole.weights + whole.workspace + 256 + 1000 * whole.bytes_per_position;
  const auto few = refusal([&] { choose_placement(c, w, request, ExpertPlace::gpu, false, short_of, "a GPU"); });
  CHECK(few.first == Exit::out_of_memory);
  CHECK(few.second.find("use --ctx 1000 or less") != std::string::npos);
  c.router.n_routed_experts = 0;
  c.first_k_dense_replace = c.num_hidden_layers;
  const Weights dense = weights_of_shape(c, true);
  const auto no_experts = refusal([&] { choose_placement(c, dense, request, ExpertPlace::host, true, ~0ull, "a GPU"); });
  CHECK(no_experts.first == Exit::unsupported);
  const auto too_large = refusal([&] { choose_placement(c, dense, request, ExpertPlace::automatic, true, 1000, "a GPU"); });
  CHECK(too_large.first == Exit::out_of_memory);
}

TEST_CASE("splits of a row's keys follow from position and heads alone, and never exceed the room for them") {
  for (int heads : {1, 4, 16, 17, 64, 128}) {
    const int most = max_splits(heads);
    CHECK(most >= 16);
    CHECK(most <= kMaxSplits);
    for (std::int32_t position : {0, 31, 32, 511, 4095, 4096, 32767, 131071, 1'000'000}) {
      const int keys = keys_per_split(position, heads);
      CHECK(keys % kKeyTile == 0);
      CHECK(position / keys + 1 <= most);
    }
  }
}

TEST_CASE("expanded attention is planned for Hopper and the published head shapes, and stays bounded") {
  const Config tiny_config = tiny("v2-lite");
  PlacementRequest request = room_for(4096);
  request.hopper = true;
  CHECK(place(tiny_config, weights_of_shape(tiny_config, true), request).expanded_heads == 0);
  Config c = tiny_config;
  c.num_attention_heads = 128;
  c.qk_nope_head_dim = c.v_head_dim = 128, c.qk_rope_head_dim = 64, c.kv_lora_rank = 512;
  const Weights w = weights_of_shape(c, true);
  CHECK(place(c, w, request).expanded_heads == 32);
  request.numerics.cache = CacheType::f32;
  CHECK(place(c, w, request).expanded_heads == 0);
  request.numerics.cache = CacheType::bf16;
  request.hopper = false;
  CHECK(place(c, w, request).expanded_heads == 0);
  request.hopper = true;
  // One thing otherwise, and the general form is planned.
  const auto otherwise = [&](auto&& change) {
    Config other = c;
    Weights weights = w;
    change(other, weights);
    return place(other, weights, request).expanded_heads;
  };
  CHECK(otherwise([](Config&, Weights&) {}) == 32);
  CHECK(otherwise([](Config& o, Weights&) { o.qk_rope_head_dim = 32; }) == 0);
  CHECK(otherwise([](Config& o, Weights&) { o.v_head_dim = 64; }) == 0);
  CHECK(otherwise([](Config& o, Weights&) { o.kv_lora_rank = 256; }) == 0);
  CHECK(otherwise([](Config&, Weights& x) { x.layers[0].kv_b_proj.format = formats::bf16; }) == 32);
  CHECK(otherwise([](Config&, Weights& x) { x.layers[0].kv_b_proj.format = formats::f16; }) == 0);
  CHECK(otherwise([](Config&, Weights& x) { x.layers[0].kv_b_proj.format.group_rows = 64; }) == 0);
  CHECK(otherwise([](Config&, Weights& x) { x.layers[0].kv_b_proj.format.group_cols = 64; }) == 0);
  CHECK(otherwise([](Config&, Weights& x) { x.layers[0].kv_b_proj.row0 = 64; }) == 0);
  CHECK(otherwise([](Config&, Weights& x) { x.layers[0].kv_b_proj.col0 = 128; }) == 0);
  std::uint64_t before = 0;
  for (std::int32_t capacity : {1, 127, 128, 129, 4096, 8192, 16384, 32768, 40000, 163840, 1'000'000}) {
    request.capacity = capacity;
    const Placement p = place(c, w, request);
    const std::uint64_t tiles = (static_cast<std::uint64_t>(capacity) + 127) / 128;
    const std::uint64_t keys = p.work[static_cast<std::size_t>(Work::expanded_keys)];
    CHECK(p.expanded_heads >= 4);
    CHECK(keys >= static_cast<std::uint64_t>(p.expanded_heads) * tiles * 65536);
    CHECK(keys <= std::max<std::uint64_t>(std::uint64_t{256} << 20, 4 * tiles * 65536));
    // What fits with one context fits with every smaller one.
    CHECK(p.workspace >= before);
    before = p.workspace;
  }
}

TEST_CASE("the launch of all layers at once is part of the plan where it is possible") {
  const Config c = tiny("v2-lite");
  const Weights w = weights_of_shape(c, true);
  const auto planned = [&](const PlacementRequest& r) {
    return place(c, w, r).work[static_cast<std::size_t>(Work::layers_at_once)];
  };
  PlacementRequest request = room_for(4096);
  request.hopper = true;
  CHECK(planned(request) == static_cast<std::uint64_t>(kLayersAtOnceBytes));
  for (auto change : {+[](PlacementRequest& r) { r.hopper = false; }, +[](PlacementRequest& r) { r.timelines = 2; },
                      +[](PlacementRequest& r) { r.host_experts = true; },
                      +[](PlacementRequest& r) { r.numerics.cache = CacheType::f32; }}) {
    PlacementRequest other = request;
    change(other);
    CHECK(planned(other) == 0);
  }
}
