#include "src/cpu/attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "src/base/tensor.h"

namespace fathom::cpu {
namespace {

// Floats of intermediate values that one block of rows may take: 64 MB.
constexpr std::int64_t kWorkspace = 16 << 20;

// Multiply-adds between two polls: about 50 ms on two cores of 2020.
constexpr std::int64_t kBlockWork = 8'000'000'000;

std::int64_t up16(std::int64_t n) { return (n + 15) / 16 * 16; }

struct Shape {
  explicit Shape(const AttendCall& c)
      : nope(c.config.qk_nope_head_dim),
        rope(c.config.qk_rope_head_dim),
        v(c.config.v_head_dim),
        latent(c.config.kv_lora_rank),
        heads(c.kv_b_proj.rows / (nope + v)),
        wide_latent(up16(latent)),
        dims(wide_latent + up16(rope)) {}
  std::int64_t nope, rope, v, latent;
  std::int64_t heads;        // of this rank
  std::int64_t wide_latent;  // padded with zeros for the kernels
  std::int64_t dims;         // of a padded key: latent, then rope
};

// Softmax state of one row and head: values relative to the maximum m.
struct State {
  float m, l;
};

// A block of rows on its way through attention.
class Block {
 public:
  Block(const Machine& m, const AttendCall& call, const Shape& shape, std::int64_t t0, std::int64_t rows)
      : m_(m),
        call_(call),
        s_(shape),
        t0_(t0),
        rows_(rows),
        query_(rows * s_.heads * s_.dims),
        out_(rows * s_.heads * s_.wide_latent),
        state_(static_cast<std::size_t>(rows * s_.heads)) {}

  void run() {
    absorb();
    if (rows_ * groups() >= 2 * m_.threads.count()) {
      attend_rows();
    } else {
      for (std::int64_t t = 0; t < rows_; ++t) attend_tiles(t);
    }
    expand();
  }

 private:
  const Row& row(std::int64_t t) const { return call_.rows[static_cast<std::size_t>(t0_ + t)]; }
  std::int64_t keys(std::int64_t t) const { return row(t).position + 1; }
  std::int64_t tiles(std::int64_t t) const { return (keys(t) + kKeyTile - 1) / kKeyTile; }
  std::int64_t groups() const { return (s_.heads + kTileHeads - 1) / kTileHeads; }
  float* query(std::int64_t t, std::int64_t head) const {
    return query_.data() + (t * s_.heads + head) * s_.dims;
  }
  float* out(std::int64_t t, std::int64_t head) const {
    return out_.data() + (t * s_.heads + head) * s_.wide_latent;
  }
  const float* q(std::int64_t t, std::int64_t head) const {
    return call_.q.data() + ((t0_ + t) * s_.heads + head) * (s_.nope + s_.rope);
  }

  // query = [W_UK^T q_nope; q_rope], padded.
  void absorb() {
    m_.threads.for_range(s_.heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) {
        std::vector<const float*> x;
        std::vector<float*> y;
        for (std::int64_t t = 0; t < rows_; ++t) {
          x.push_back(q(t, h));
          y.push_back(query(t, h));
        }
        const std::int64_t first = h * (s_.nope + s_.v);
        transposed_product(m_.kernels, call_.kv_b_proj.rows_slice(first, first + s_.nope), x, y);
        for (std::int64_t t = 0; t < rows_; ++t) {
          float* rope = query(t, h) + s_.wide_latent;
          std::copy_n(q(t, h) + s_.nope, s_.rope, rope);
          std::fill(rope + s_.rope, query(t, h) + s_.dims, 0.0f);
        }
      }
    });
  }

  // Keys [first, first + n) of a timeline as floats, padded.
  void load_keys(std::uint32_t timeline, std::int64_t first, std::int64_t n, float* out) const {
    const KvCache& cache = call_.cache;
    const std::byte* base = cache.rows(call_.stream, timeline);
    const DType type = cache.type() == CacheType::f32 ? DType::f32 : DType::bf16;
    const auto size = static_cast<std::int64_t>(dtype_size(type));
    for (std::int64_t k = 0; k < n; ++k) {
      const std::byte* in = base + (first + k) * static_cast<std::int64_t>(cache.row_bytes());
      float* key = out + k * s_.dims;
      widen(type, in, s_.latent, key, s_.wide_latent);
      widen(type, in + s_.latent * size, s_.rope, key + s_.wide_latent, s_.dims - s_.wide_latent);
    }
  }

  void widen(DType type, const std::byte* in, std::int64_t n, float* out, std::int64_t padded) const {
    const std::int64_t whole = n / kPiece * kPiece;
    m_.kernels.decode(type == DType::f32 ? Decode::f32 : Decode::bf16, in, whole, out);
    for (std::int64_t i = whole; i < n; ++i) out[i] = element_as_float(type, in, static_cast<std::size_t>(i));
    std::fill(out + n, out + padded, 0.0f);
  }

  // One row's heads [h0, h0 + heads) over the tile of `valid` keys.
  void one_tile(const float* keys, std::int64_t valid, std::int64_t t, std::int64_t h0, std::int64_t heads,
                float* o, State* state) const {
    float m[kTileHeads], l[kTileHeads];
    m_.kernels.attend_tile({.keys = keys,
                            .n = static_cast<int>(valid),
                            .heads = static_cast<int>(heads),
                            .dims = s_.dims,
                            .latent = s_.wide_latent,
                            .q = query(t, h0),
                            .softmax_scale = call_.softmax_scale,
                            .o = o,
                            .m = m,
                            .l = l});
    for (std::int64_t h = 0; h < heads; ++h) state[h] = {m[h], l[h]};
  }

  // Joins a tile's result to what was joined before it.
  void join(float* o, State& into, const float* tile_o, State tile) const {
    const float top = std::max(into.m, tile.m);
    const float a = std::exp(into.m - top), b = std::exp(tile.m - top);
    m_.kernels.join(o, a, tile_o, b, s_.wide_latent);
    into = {top, into.l * a + tile.l * b};
  }

  // A tile of keys is at most this large; the four rows that a kernel reads beyond the last key must be
  // finite.
  Floats tile_buffer() const {
    Floats keys(kKeyTile * s_.dims);
    std::fill_n(keys.data(), kKeyTile * s_.dims, 0.0f);
    return keys;
  }

  // Many rows: each thread takes whole (rows, heads) and walks the tiles in order; rows share a decoded tile.
  void attend_rows() {
    const int threads = m_.threads.count();
    const std::int64_t group_rows = std::max<std::int64_t>(1, rows_ * groups() / (8 * threads));
    const std::int64_t row_groups = (rows_ + group_rows - 1) / group_rows;
    // Dealt out in turn: later rows have more keys.
    m_.threads.run([&](int index) {
      const Floats buffer = tile_buffer();
      for (std::int64_t i = index; i < row_groups * groups(); i += threads) {
        const std::int64_t first = i / groups() * group_rows, h0 = i % groups() * kTileHeads;
        walk_tiles(buffer.data(), first, std::min(first + group_rows, rows_), h0,
                   std::min<std::int64_t>(kTileHeads, s_.heads - h0));
      }
    });
  }

  void walk_tiles(float* buffer, std::int64_t begin, std::int64_t end, std::int64_t h0, std::int64_t heads) {
    const Floats tile_o(kTileHeads * s_.wide_latent);
    State tile_state[kTileHeads];
    for (std::int64_t t = begin; t < end;) {
      std::int64_t stop = t;  // of the rows of one timeline
      std::int64_t most = 0;
      while (stop < end && row(stop).timeline == row(t).timeline) most = std::max(most, keys(stop++));
      for (std::int64_t first = 0; first < most; first += kKeyTile) {
        load_keys(row(t).timeline, first, std::min<std::int64_t>(kKeyTile, most - first), buffer);
        for (std::int64_t i = t; i < stop; ++i) {
          const std::int64_t valid = std::min<std::int64_t>(kKeyTile, keys(i) - first);
          if (valid <= 0) continue;
          State* state = state_.data() + i * s_.heads + h0;
          if (first == 0) {
            one_tile(buffer, valid, i, h0, heads, out(i, h0), state);
            continue;
          }
          one_tile(buffer, valid, i, h0, heads, tile_o.data(), tile_state);
          for (std::int64_t h = 0; h < heads; ++h)
            join(out(i, h0 + h), state[h], tile_o.data() + h * s_.wide_latent, tile_state[h]);
        }
      }
      t = stop;
    }
  }

  // Few rows: threads share the tiles of one row, so that each key is read once; heads join them afterwards.
  void attend_tiles(std::int64_t t) {
    const std::int64_t width = s_.heads * (s_.wide_latent + 2);
    const std::int64_t wave = std::max<std::int64_t>(1, std::min(tiles(t), kWorkspace / width));
    const Floats o(wave * s_.heads * s_.wide_latent);
    std::vector<State> states(static_cast<std::size_t>(wave * s_.heads));
    for (std::int64_t first = 0; first < tiles(t); first += wave) {
      const std::int64_t count = std::min(wave, tiles(t) - first);
      m_.threads.for_range(count * groups(), 1, [&](std::int64_t begin, std::int64_t end) {
        const Floats buffer = tile_buffer();
        std::int64_t loaded = -1;
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t tile = i / groups(), h0 = i % groups() * kTileHeads;
          const std::int64_t key = (first + tile) * kKeyTile;
          const std::int64_t valid = std::min<std::int64_t>(kKeyTile, keys(t) - key);
          if (loaded != tile) load_keys(row(t).timeline, key, valid, buffer.data());
          loaded = tile;
          one_tile(buffer.data(), valid, t, h0, std::min<std::int64_t>(kTileHeads, s_.heads - h0),
                   o.data() + (tile * s_.heads + h0) * s_.wide_latent, states.data() + tile * s_.heads + h0);
        }
      });
      join_tiles(t, first == 0, count, o.data(), states.data());
    }
  }

  void join_tiles(std::int64_t t, bool start, std::int64_t count, const float* o, const State* states) {
    m_.threads.for_range(s_.heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h)
        for (std::int64_t tile = 0; tile < count; ++tile) {
          const std::int64_t at = tile * s_.heads + h;
          State& state = state_[static_cast<std::size_t>(t * s_.heads + h)];
          if (start && tile == 0) {
            std::copy_n(o + at * s_.wide_latent, s_.wide_latent, out(t, h));
            state = states[at];
          } else {
            join(out(t, h), state, o + at * s_.wide_latent, states[at]);
          }
        }
    });
  }

  // attn = W_UV (out / l), head by head.
  void expand() {
    m_.threads.for_range(s_.heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h) {
        const std::int64_t first = h * (s_.nope + s_.v) + s_.nope;
        const Linear w = call_.kv_b_proj.rows_slice(first, first + s_.v);
        Input in(w, rows_);
        std::vector<ProductRow> rows;
        for (std::int64_t t = 0; t < rows_; ++t) {
          const float l = state_[static_cast<std::size_t>(t * s_.heads + h)].l;
          for (std::int64_t c = 0; c < s_.latent; ++c) in.row(t)[c] = out(t, h)[c] / l;
          rows.push_back({in.blocks(t), nullptr, call_.attn + ((t0_ + t) * s_.heads + h) * s_.v});
        }
        product(m_.kernels, w, 0, s_.v, rows);
      }
    });
  }

  const Machine& m_;
  const AttendCall& call_;
  const Shape& s_;
  std::int64_t t0_, rows_;
  Floats query_, out_;
  std::vector<State> state_;
};

}  // namespace

void attend(const Machine& m, const AttendCall& call, FunctionRef<void()> poll) {
  const Shape shape(call);
  const auto T = static_cast<std::int64_t>(call.rows.size());
  std::int64_t keys = 1;
  for (const Row& row : call.rows) keys = std::max<std::int64_t>(keys, row.position + 1);
  const std::int64_t width = shape.heads * (shape.dims + shape.wide_latent);
  const std::int64_t block =
      std::max<std::int64_t>(1, std::min(kWorkspace / width, kBlockWork / (width * keys)));
  for (std::int64_t t = 0; t < T; t += block) {
    Block(m, call, shape, t, std::min(block, T - t)).run();
    poll();
  }
}

}  // namespace fathom::cpu
