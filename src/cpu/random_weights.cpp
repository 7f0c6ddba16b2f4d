#include "src/cpu/random_weights.h"

#include <sys/mman.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "src/base/checked.h"
#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/tensor.h"

namespace fathom::cpu {
namespace {

// SplitMix64: any counter gives well-mixed bits, so that each kilobyte can be filled on its own.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Uniform in [0, 1).
float unit(std::uint64_t bits) { return static_cast<float>(bits >> 40) * 0x1p-24f; }

// Tensors one behind the other in anonymous memory, at addresses that are multiples of 8 but rarely of 64, as
// the tensors of a safetensors file are.
class Arena {
 public:
  std::byte* take(std::int64_t bytes) {
    const std::int64_t size = (bytes + 7) / 8 * 8 + 8;
    if (size > left_) grow(std::max<std::int64_t>(size, kChunk));
    std::byte* p = next_;
    next_ += size;
    left_ -= size;
    return p;
  }
  std::shared_ptr<const void> finish() { return chunks_; }

 private:
  static constexpr std::int64_t kChunk = 256 << 20;
  struct Chunk {
    void* p;
    std::size_t n;
  };
  struct Chunks {
    std::vector<Chunk> all;
    ~Chunks() {
      for (const Chunk& c : all) ::munmap(c.p, c.n);
    }
  };

  void grow(std::int64_t bytes) {
    const auto n = static_cast<std::size_t>(bytes + 64);
    void* p = faults::trip(faults::Site::memory)
                  ? MAP_FAILED
                  : ::mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) fail(Exit::out_of_memory, "cannot allocate {} bytes for random weights", n);
    chunks_->all.push_back({p, n});
    next_ = static_cast<std::byte*>(p) + 8;
    left_ = bytes;
  }

  std::shared_ptr<Chunks> chunks_ = std::make_shared<Chunks>();
  std::byte* next_ = nullptr;
  std::int64_t left_ = 0;
};

// Code of the i-th 256-quantile of a normal distribution with standard deviation 64: -190 to 190.
std::array<std::uint8_t, 256> e4m3_quantiles() {
  std::array<std::uint8_t, 256> codes{};
  double z = -4, below = 0;  // integrates the density in small steps
  for (int i = 0; i < 256; ++i) {
    while (below < (i + 0.5) / 256) {
      below += 1e-4 * std::exp(-z * z / 2) / std::sqrt(2 * 3.141592653589793);
      z += 1e-4;
    }
    codes[static_cast<std::size_t>(i)] = float_to_e4m3(static_cast<float>(64 * z));
  }
  return codes;
}
constexpr float kCodeDeviation = 64;

class Builder {
 public:
  Builder(const Config& config, Threads& threads, const RandomWeightsOptions& options)
      : c_(config),
        threads_(threads),
        options_(options),
        quantiles_(e4m3_quantiles()),
        stream_(mix(options.seed)) {}

  RandomWeights build() {
    RandomWeights out;
    Weights& w = out.weights;
    w.embed_tokens = linear(c_.vocab_size, c_.hidden_size, formats::bf16);
    w.norm = norm(c_.hidden_size);
    w.lm_head =
        c_.tie_word_embeddings ? w.embed_tokens : linear(c_.vocab_size, c_.hidden_size, formats::bf16);
    for (int i = 0; i < c_.num_hidden_layers; ++i) w.layers.push_back(layer(i));
    w.heads = c_.num_attention_heads;
    w.bytes_per_token = per_token(w);
    for (int i = 0; options_.mtp && i < c_.num_nextn_predict_layers; ++i) w.mtp.push_back(mtp(w, i));
    w.bytes_total = total_;
    out.memory = arena_.finish();
    return out;
  }

 private:
  Linear linear(std::int64_t rows, std::int64_t cols, const WeightFormat& f) {
    Linear l;
    l.rows = rows;
    l.cols = cols;
    l.format = f;
    l.row_bytes = cols * f.bits / 8;
    std::byte* data = arena_.take(rows * l.row_bytes);
    fill(data, rows * l.row_bytes, f, 1.0f / std::sqrt(static_cast<float>(cols)));
    l.data = data;
    if (f.scaled()) {
      const std::int64_t grid_rows = (rows + f.group_rows - 1) / f.group_rows;
      l.scale_cols = (cols + f.group_cols - 1) / f.group_cols;
      const auto size = static_cast<std::int64_t>(dtype_size(f.scale));
      std::byte* scale = arena_.take(grid_rows * l.scale_cols * size);
      for (std::int64_t i = 0; i < grid_rows * l.scale_cols; ++i) put_scale(scale + i * size, f, cols);
      l.scale = scale;
    }
    total_ += l.bytes();
    return l;
  }

  // Random codes whose values have the deviation given (scaled formats: one that put_scale knows).
  void fill(std::byte* out, std::int64_t bytes, const WeightFormat& f, float deviation) {
    const std::uint64_t stream = stream_++ << 40;
    constexpr std::int64_t kPage = 4096;
    threads_.for_range((bytes + kPage - 1) / kPage, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin * kPage; i < std::min(end * kPage, bytes); i += 8) {
        const std::uint64_t bits = mix(stream + static_cast<std::uint64_t>(i));
        const std::uint64_t codes = encode(bits, f, deviation);
        std::memcpy(out + i, &codes, static_cast<std::size_t>(std::min<std::int64_t>(8, bytes - i)));
      }
    });
  }

  // Eight bytes of codes from 64 random bits. Unscaled types: uniform over +-sqrt(3) deviations.
  std::uint64_t encode(std::uint64_t bits, const WeightFormat& f, float deviation) const {
    std::array<std::uint8_t, 8> out;
    const auto value = [&](std::uint64_t b) { return (unit(b) * 2 - 1) * 1.7320508f * deviation; };
    switch (f.decode) {
      case Decode::e4m3:
        for (std::size_t i = 0; i < 8; ++i) out[i] = quantiles_[bits >> (8 * i) & 0xff];
        break;
      case Decode::bf16:
        for (std::size_t i = 0; i < 4; ++i) {
          const std::uint16_t h = float_to_bf16(value(bits << (16 * i)));
          std::memcpy(&out[2 * i], &h, 2);
        }
        break;
      case Decode::f16:
        for (std::size_t i = 0; i < 4; ++i) {
          // Sign and ten mantissa bits are random; exponents lie just below the deviation.
          const int exponent = 14 + static_cast<int>(std::floor(std::log2(deviation))) +
                               static_cast<int>(bits >> (16 * i + 11) & 1);
          const auto h =
              static_cast<std::uint16_t>((bits >> (16 * i) & 0x83ff) | static_cast<unsigned>(exponent) << 10);
          std::memcpy(&out[2 * i], &h, 2);
        }
        break;
      case Decode::f32:
        for (std::size_t i = 0; i < 2; ++i) {
          const float v = value(bits << (32 * i));
          std::memcpy(&out[4 * i], &v, 4);
        }
        break;
      case Decode::e2m1:
      case Decode::offset:
        return bits;
    }
    return std::bit_cast<std::uint64_t>(out);
  }

  // A scale that gives the weights a variance of about 1 / cols, times a random factor of 0.5 to 1.5.
  void put_scale(std::byte* out, const WeightFormat& f, std::int64_t cols) {
    const float code_deviation = f.decode == Decode::e4m3     ? kCodeDeviation
                                 : f.decode == Decode::offset ? 4.6f
                                                              : 2.9f;
    const float s = (0.5f + random()) / (code_deviation * std::sqrt(static_cast<float>(cols)));
    if (f.scale == DType::f32) {
      std::memcpy(out, &s, 4);
    } else if (f.scale == DType::bf16) {
      const std::uint16_t h = float_to_bf16(s);
      std::memcpy(out, &h, 2);
    } else {
      const auto e = static_cast<std::uint8_t>(127 + std::lround(std::log2(s)));
      std::memcpy(out, &e, 1);
    }
  }

  float random() { return unit(mix(options_.seed ^ (counter_++ << 20))); }

  std::vector<float> norm(int n) {
    std::vector<float> w;
    for (int i = 0; i < n; ++i) w.push_back(0.9f + 0.2f * random());
    total_ += 2 * n;
    return w;
  }

  Mlp mlp(int intermediate) {
    return {linear(intermediate, c_.hidden_size, options_.linear),
            linear(intermediate, c_.hidden_size, options_.linear),
            linear(c_.hidden_size, intermediate, options_.linear)};
  }

  LayerWeights layer(int index) {
    const WeightFormat& f = options_.linear;
    const int heads = c_.num_attention_heads;
    LayerWeights w;
    w.input_layernorm = norm(c_.hidden_size);
    w.post_attention_layernorm = norm(c_.hidden_size);
    if (c_.q_lora_rank > 0) {
      w.q_a_proj = linear(c_.q_lora_rank, c_.hidden_size, f);
      w.q_a_layernorm = norm(c_.q_lora_rank);
    }
    w.q_proj = linear(heads * c_.qk_head_dim(), c_.q_lora_rank > 0 ? c_.q_lora_rank : c_.hidden_size, f);
    w.kv_a_proj = linear(c_.kv_row(), c_.hidden_size, f);
    w.kv_a_layernorm = norm(c_.kv_lora_rank);
    w.kv_b_proj = linear(heads * (c_.qk_nope_head_dim + c_.v_head_dim), c_.kv_lora_rank, f);
    w.o_proj = linear(c_.hidden_size, heads * c_.v_head_dim, f);
    if (!c_.is_moe(index)) {
      w.dense = mlp(c_.intermediate_size);
      return w;
    }
    w.router = linear(c_.router.n_routed_experts, c_.hidden_size, formats::bf16);
    if (c_.router.topk_method == TopkMethod::noaux_tc)
      for (int e = 0; e < c_.router.n_routed_experts; ++e)
        w.e_score_correction_bias.push_back(0.2f * random() - 0.1f);
    for (int e = 0; e < c_.router.n_routed_experts; ++e) {
      const Mlp m = mlp(c_.moe_intermediate_size);
      w.experts.experts.push_back({m.gate, m.up, m.down, Device::host()});
    }
    if (c_.n_shared_experts > 0) w.shared = mlp(c_.shared_intermediate_size());
    return w;
  }

  MtpWeights mtp(const Weights& w, int index) {
    MtpWeights m;
    m.enorm = norm(c_.hidden_size);
    m.hnorm = norm(c_.hidden_size);
    m.norm = norm(c_.hidden_size);
    m.eh_proj = linear(c_.hidden_size, 2 * c_.hidden_size, formats::bf16);
    m.embed_tokens = w.embed_tokens;
    m.head = w.lm_head;
    m.layer = layer(c_.num_hidden_layers + index);
    return m;
  }

  std::int64_t per_token(const Weights& w) const {
    std::int64_t bytes = w.lm_head.bytes() + w.embed_tokens.row_bytes;
    const auto of_mlp = [](const auto& m) { return m.gate.bytes() + m.up.bytes() + m.down.bytes(); };
    for (const LayerWeights& l : w.layers) {
      if (l.q_a_proj) bytes += l.q_a_proj.bytes();
      bytes += l.q_proj.bytes() + l.kv_a_proj.bytes() + l.kv_b_proj.bytes() + l.o_proj.bytes();
      if (l.dense) bytes += of_mlp(*l.dense);
      if (l.shared) bytes += of_mlp(*l.shared);
      if (l.router)
        bytes += l.router.bytes() + c_.router.num_experts_per_tok * of_mlp(l.experts.experts.front());
    }
    return bytes;
  }

  const Config& c_;
  Threads& threads_;
  const RandomWeightsOptions& options_;
  const std::array<std::uint8_t, 256> quantiles_;
  Arena arena_;
  std::uint64_t stream_, counter_ = 0;
  std::int64_t total_ = 0;
};

}  // namespace

RandomWeights random_weights(const Config& config, Threads& threads, const RandomWeightsOptions& options) {
  return Builder(config, threads, options).build();
}

}  // namespace fathom::cpu
