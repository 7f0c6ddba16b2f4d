#include "cuda/weights.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "src/base/checked.h"
#include "src/base/error.h"
#include "src/base/faults.h"
#include "src/base/populate.h"
#include "src/engine/gpu_placement.h"

namespace fathom::cuda {
namespace {

// Sixteen threads, two pinned buffers each: pinning costs half a millisecond a megabyte and happens one thread after the
// other, and pieces of 1 MB and less no longer reach the bus's bandwidth.
constexpr std::uint64_t kPiece = std::uint64_t{2} << 20;
constexpr int kMostThreads = 16;

// A run of rows of one matrix, or the scales of one.
struct Piece {
  Linear linear;  // by value: experts' views are gathered from temporaries
  std::byte* to = nullptr;
  std::int64_t begin = 0, end = 0;  // rows of codes, or of the scale grid
  std::uint64_t row_bytes = 0;      // on the device
  bool scales = false;
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(end - begin) * row_bytes; }
};

struct Grid {
  std::int64_t first_row = 0, first_col = 0, rows = 0, cols = 0;
};
Grid grid_of(const Linear& l) {
  const WeightFormat& f = l.format;
  Grid g;
  g.first_row = l.row0 / f.group_rows;
  g.first_col = l.col0 / f.group_cols;
  g.rows = (l.row0 + l.rows - 1) / f.group_rows - g.first_row + 1;
  g.cols = (l.col0 + l.cols - 1) / f.group_cols - g.first_col + 1;
  return g;
}

void pack_rows(const Piece& p, const ForwardOptions::CopyBytes& copy, std::byte* out) {
  const Linear& l = p.linear;
  const auto used = static_cast<std::uint64_t>(l.cols) * static_cast<std::uint64_t>(l.format.bits) / 8;
  const std::byte* from = l.data + p.begin * l.row_bytes;
  const bool as_stored = used == p.row_bytes && l.row_bytes == static_cast<std::int64_t>(used);
  if (as_stored && l.format.decode != Decode::f16 && copy) return copy(from, {out, p.bytes()});
  populate({from, static_cast<std::size_t>((p.end - p.begin - 1) * l.row_bytes) + used});
  if (l.format.decode == Decode::f16) {
    std::memset(out, 0, p.bytes());
    for (std::int64_t r = p.begin; r < p.end; ++r, out += p.row_bytes, from += l.row_bytes)
      for (std::int64_t c = 0; c < l.cols; ++c) {
        const float v = f16_to_float(load<std::uint16_t>(from + 2 * c));
        std::memcpy(out + 4 * c, &v, 4);
      }
    return;
  }
  if (as_stored) {
    std::memcpy(out, from, p.bytes());
    return;
  }
  for (std::int64_t r = p.begin; r < p.end; ++r, out += p.row_bytes, from += l.row_bytes) {
    std::memcpy(out, from, used);
    std::memset(out + used, 0, p.row_bytes - used);
  }
}

void pack_scales(const Piece& p, std::byte* out) {
  const Linear& l = p.linear;
  const Grid g = grid_of(l);
  auto* values = reinterpret_cast<float*>(out);
  for (std::int64_t r = p.begin; r < p.end; ++r)
    for (std::int64_t c = 0; c < g.cols; ++c)
      *values++ =
          element_as_float(l.format.scale, l.scale,
                           static_cast<std::size_t>((g.first_row + r) * l.scale_cols + g.first_col + c));
}

class Loader {
 public:
  Loader(const LoadOptions& options, DeviceWeights& out) : options_(options), out_(out) {}

  Matrix matrix(const Linear& l, const char* name) {
    Matrix m;
    if (l.rows == 0 || l.cols == 0) return m;
    m = shape(l, name);
    const auto bytes = static_cast<std::uint64_t>(m.rows) * static_cast<std::uint64_t>(m.row_bytes);
    std::byte* codes = out_.memory.take(bytes);
    m.codes = codes;
    std::byte* scales = nullptr;
    const Grid g = l.format.scaled() ? grid_of(l) : Grid{};
    const auto scale_bytes = static_cast<std::uint64_t>(g.rows * g.cols) * 4;
    if (l.format.scaled()) {
      scales = out_.memory.take(scale_bytes);
      m.scale = reinterpret_cast<const float*>(scales);
    }
    if (options_.random_weights) {
      random_.push_back({m, nullptr, nullptr});
      return m;
    }
    const auto row_bytes = static_cast<std::uint64_t>(m.row_bytes);
    const auto step = static_cast<std::int64_t>(std::max<std::uint64_t>(kPiece / row_bytes, 1));
    for (std::int64_t r = 0; r < l.rows; r += step)
      add({l, codes + static_cast<std::uint64_t>(r) * row_bytes, r, std::min(l.rows, r + step), row_bytes,
           false});
    if (l.format.scaled()) add({l, scales, 0, g.rows, static_cast<std::uint64_t>(g.cols) * 4, true});
    return m;
  }

  const float* vector(const std::vector<float>& v) {
    if (v.empty()) return nullptr;
    std::byte* p = out_.memory.take(v.size() * sizeof(float));
    copy_to_device(p, v.data(), v.size() * sizeof(float));
    return reinterpret_cast<const float*>(p);
  }

  DeviceMlp mlp(const Mlp& m, const char* name) {
    DeviceMlp d{matrix(m.gate, name), matrix(m.up, name), matrix(m.down, name)};
    same_format(d.gate, d.up, name);
    same_format(d.gate, d.down, name);
    return d;
  }

  DeviceLayer layer(const LayerWeights& l) {
    DeviceLayer d;
    d.input_layernorm = vector(l.input_layernorm);
    d.post_attention_layernorm = vector(l.post_attention_layernorm);
    d.q_a_layernorm = vector(l.q_a_layernorm);
    d.kv_a_layernorm = vector(l.kv_a_layernorm);
    d.e_score_correction_bias = vector(l.e_score_correction_bias);
    d.q_a_proj = matrix(l.q_a_proj, "q_a_proj");
    d.q_proj = matrix(l.q_proj, "q_proj");
    d.kv_a_proj = matrix(l.kv_a_proj, "kv_a_proj_with_mqa");
    d.kv_b_proj = matrix(l.kv_b_proj, "kv_b_proj");
    d.o_proj = matrix(l.o_proj, "o_proj");
    d.router = matrix(l.router, "mlp.gate");
    if (l.dense) d.dense = mlp(*l.dense, "mlp");
    if (l.shared) d.shared = mlp(*l.shared, "mlp.shared_experts");
    experts(l.experts, d);
    if (d.shared.gate.rows > 0 && d.experts != nullptr)
      same_format(d.shared.gate, d.expert.gate, "mlp.shared_experts");
    return d;
  }

  // Runs all copies (or fills).
  void finish() {
    if (options_.random_weights) return fill();
    const int count = std::clamp(usable_cores(), 1, kMostThreads);
    int device = 0;
    FATHOM_CUDA(cudaGetDevice(&device));
    std::vector<std::thread> threads;
    try {
      for (int i = 0; i < count; ++i) threads.emplace_back([this, device] { work(device); });
    } catch (...) {
      note_error();
    }
    for (int tick = 0; finished_ < static_cast<int>(threads.size()); ++tick) {
      if (options_.progress && tick % 50 == 0) options_.progress(done_, total_);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    for (std::thread& t : threads) t.join();
    if (error_) std::rethrow_exception(error_);
    if (options_.progress) options_.progress(total_, total_);
  }

 private:
  Matrix shape(const Linear& l, const char* name) {
    Matrix m;
    const WeightFormat& f = l.format;
    switch (f.decode) {
      case Decode::e4m3:
        m.code = Code::e4m3;
        break;
      case Decode::bf16:
        m.code = Code::bf16;
        break;
      case Decode::f32:
      case Decode::f16:
        m.code = Code::f32;
        break;  // F16 is widened on its way: exact, and rare
      default:
        throw Error(Exit::unsupported, fmt::format("{}: this storage format has no CUDA kernels yet", name),
                    "use --backend cpu");
    }
    if (f.scaled() && (f.group_rows != 128 || f.group_cols != 128))
      throw Error(
          Exit::unsupported,
          fmt::format("{}: expected scale blocks of 128x128, found {}x{}", name, f.group_rows, f.group_cols),
          "use --backend cpu");
    m.rows = static_cast<int>(l.rows);
    m.cols = static_cast<int>(l.cols);
    m.row_bytes = (m.cols * code_bytes(m.code) + 15) / 16 * 16;
    if (f.scaled()) {
      m.scale_cols = static_cast<int>(grid_of(l).cols);
      m.row_shift = static_cast<int>(l.row0 % f.group_rows);
      m.col_shift = static_cast<int>(l.col0 % f.group_cols);
      if (m.col_shift % 16 != 0)
        fail(Exit::unsupported, "{}: a slice of columns must begin at a multiple of 16, found {}", name,
             l.col0);
    }
    if (m.code == Code::f32 || m.row_shift % 8 != 0 || m.col_shift != 0) out_.tensor_cores = false;
    return m;
  }

  static void same_format(const Matrix& a, const Matrix& b, const char* name) {
    if (a.code != b.code)
      throw Error(Exit::unsupported, fmt::format("{}: its matrices differ in storage format", name),
                  "use --backend cpu");
  }

  void experts(const ExpertTable& table, DeviceLayer& d) {
    if (table.experts.empty()) return;
    if (options_.host_experts != nullptr) {
      d.host_experts = options_.random_weights ? random_table(table) : &table;
      d.expert_count = static_cast<int>(table.experts.size());
      return;
    }
    std::vector<ExpertPointers> pointers;
    for (const Expert& e : table.experts) {
      const DeviceMlp m = mlp({e.gate, e.up, e.down}, "mlp.experts");
      if (pointers.empty()) d.expert = m;
      for (const auto& [a, b] :
           {std::pair(&m.gate, &d.expert.gate), {&m.up, &d.expert.up}, {&m.down, &d.expert.down}})
        if (a->code != b->code || a->rows != b->rows || a->cols != b->cols || a->row_shift != b->row_shift ||
            a->col_shift != b->col_shift)
          throw Error(Exit::unsupported,
                      "mlp.experts: the experts of a layer differ in shape or storage format",
                      "use --backend cpu");
      pointers.push_back({m.gate.codes, m.up.codes, m.down.codes, m.gate.scale, m.up.scale, m.down.scale});
    }
    for (Matrix* m : {&d.expert.gate, &d.expert.up, &d.expert.down}) m->codes = nullptr, m->scale = nullptr;
    d.expert_count = static_cast<int>(pointers.size());
    d.first_expert = pointers.front();
    d.expert_bytes = even_distance(pointers);
    std::byte* p = out_.memory.take(pointers.size() * sizeof(ExpertPointers));
    copy_to_device(p, pointers.data(), pointers.size() * sizeof(ExpertPointers));
    d.experts = reinterpret_cast<const ExpertPointers*>(p);
  }

  static std::int64_t even_distance(const std::vector<ExpertPointers>& list) {
    if (list.size() < 2) return 16;
    const std::int64_t distance = list[1].gate - list[0].gate;
    for (std::size_t i = 1; i < list.size(); ++i)
      for (auto member : {&ExpertPointers::gate, &ExpertPointers::up, &ExpertPointers::down})
        if (list[i].*member - list[i - 1].*member != distance) return 0;
    return distance;
  }

  // A table of the same shapes whose bytes are this loader's to fill.
  const ExpertTable* random_table(const ExpertTable& shapes) {
    out_.host_tables.push_back(std::make_unique<ExpertTable>(shapes));
    ExpertTable& table = *out_.host_tables.back();
    Size bytes = 0;
    for (Expert& e : table.experts)
      for (Linear* l : {&e.gate, &e.up, &e.down}) bytes = bytes + Size(device_bytes(*l));
    std::byte* next = nullptr;
    try {
      if (faults::trip(faults::Site::memory)) throw std::bad_alloc();
      out_.host_memory.emplace_back(new std::byte[bytes.to<std::size_t>()]);
      next = out_.host_memory.back().get();
    } catch (const std::bad_alloc&) {
      fail(Exit::out_of_memory, "cannot allocate {} bytes of host memory for random experts", bytes.value());
    }
    for (Expert& e : table.experts)
      for (Linear* l : {&e.gate, &e.up, &e.down}) {
        const Matrix m = shape(*l, "mlp.experts");
        const std::uint64_t codes = static_cast<std::uint64_t>(m.rows) * static_cast<std::uint64_t>(m.row_bytes);
        l->row_bytes = m.row_bytes;
        l->data = next;
        l->scale = l->format.scaled() ? next + (codes + 255) / 256 * 256 : nullptr;
        random_.push_back({m, next, l});
        next += device_bytes(*l);
      }
    return &table;
  }

  void add(const Piece& p) {
    pieces_.push_back(p);
    total_ += p.bytes();
    largest_ = std::max(largest_, p.bytes());
  }

  // What a matrix is filled with depends on its place in the order of loading, not on where it lives: matrices of host
  // memory are filled on the device too and copied.
  void fill() {
    const Launch on{nullptr, options_.multiprocessors, false};
    std::uint64_t seed = *options_.random_weights, largest = 0, done = 0;
    for (const RandomMatrix& r : random_)
      if (r.host != nullptr) largest = std::max(largest, device_bytes(*r.linear));
    const Arena scratch(largest);
    const Pinned staging(largest);
    for (const RandomMatrix& r : random_) {
      Matrix m = r.matrix;
      seed += 0x9e3779b97f4a7c15u;
      if (r.host != nullptr) {
        m.codes = scratch.data();
        if (r.linear->scale != nullptr)
          m.scale = reinterpret_cast<const float*>(scratch.data() + (r.linear->scale - r.linear->data));
      }
      fill_random(on, m, seed);
      if (r.host == nullptr) continue;
      const std::uint64_t bytes = device_bytes(*r.linear);
      FATHOM_CUDA(cudaMemcpy(staging.data(), scratch.data(), bytes, cudaMemcpyDeviceToHost));
      options_.host_experts->for_range(
          static_cast<std::int64_t>(bytes), 4096, [&](std::int64_t begin, std::int64_t end) {
            std::memcpy(r.host + begin, staging.data() + begin, static_cast<std::size_t>(end - begin));
          });
      done += bytes;
      if (options_.progress && done % (std::uint64_t{1} << 30) < bytes) options_.progress(done, done);
    }
    FATHOM_CUDA(cudaDeviceSynchronize());
    if (options_.progress) options_.progress(1, 1);
  }

  void work(int device) {
    try {
      FATHOM_CUDA(cudaSetDevice(device));
      const Stream stream = make_stream();
      const Pinned buffers[2] = {Pinned(largest_), Pinned(largest_)};
      const Event copied[2] = {make_event(false), make_event(false)};
      const ForwardOptions::CopyBytes copy = options_.copier ? options_.copier() : nullptr;
      for (unsigned turn = 0; !failed_; turn ^= 1u) {
        const std::size_t i = next_++;
        if (i >= pieces_.size()) break;
        const Piece& p = pieces_[i];
        FATHOM_CUDA(cudaEventSynchronize(copied[turn].get()));
        if (p.scales)
          pack_scales(p, buffers[turn].data());
        else
          pack_rows(p, copy, buffers[turn].data());
        FATHOM_CUDA(
            cudaMemcpyAsync(p.to, buffers[turn].data(), p.bytes(), cudaMemcpyHostToDevice, stream.get()));
        FATHOM_CUDA(cudaEventRecord(copied[turn].get(), stream.get()));
        done_ += p.bytes();
      }
      FATHOM_CUDA(cudaStreamSynchronize(stream.get()));
    } catch (...) {
      note_error();
    }
    ++finished_;
  }

  void note_error() {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
    failed_ = true;
  }

  const LoadOptions& options_;
  DeviceWeights& out_;
  std::vector<Piece> pieces_;
  struct RandomMatrix {
    Matrix matrix;
    std::byte* host;       // where its bytes go; null: the matrix lies on the device
    const Linear* linear;  // the view of host bytes
  };
  std::vector<RandomMatrix> random_;
  std::uint64_t total_ = 0, largest_ = 0;
  std::atomic<std::uint64_t> done_{0};
  std::atomic<std::size_t> next_{0};
  std::atomic<int> finished_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

// See DeviceWeights::hopper.
std::optional<Code> common_code(const DeviceWeights& w) {
  std::optional<Code> code;
  bool good = true;
  const auto look = [&](const Matrix& m) {
    if (m.rows == 0) return;
    if (!code) code = m.code;
    good = good && m.code == *code && m.row_shift == 0 && m.col_shift == 0 && m.rows % 8 == 0 &&
           (m.code == Code::bf16 || (m.code == Code::e4m3 && m.scale_cols > 0));
  };
  const auto look_at = [&](const DeviceLayer& l) {
    for (const Matrix* m : {&l.q_a_proj, &l.q_proj, &l.kv_a_proj, &l.o_proj}) look(*m);
    for (const DeviceMlp* m : {&l.dense, &l.shared, &l.expert}) look(m->gate), look(m->up), look(m->down);
    good = good && (l.experts == nullptr || l.expert_bytes > 0);
  };
  for (const DeviceLayer& l : w.layers) look_at(l);
  for (const DeviceMtp& m : w.mtp) look_at(m.layer);
  return good ? code : std::nullopt;
}

}  // namespace

DeviceWeights load_weights(const Weights& w, const std::vector<float>& rope_frequency,
                           const LoadOptions& options) {
  DeviceWeights d;
  d.memory = Arena(options.bytes);
  Loader loader(options, d);
  d.embed_tokens = loader.matrix(w.embed_tokens, "model.embed_tokens");
  d.norm = loader.vector(w.norm);
  const bool tied = w.lm_head.data != nullptr && w.lm_head.data == w.embed_tokens.data;
  d.lm_head = tied ? d.embed_tokens : loader.matrix(w.lm_head, "lm_head");
  for (const LayerWeights& l : w.layers) d.layers.push_back(loader.layer(l));
  for (const MtpWeights& m : w.mtp) {
    DeviceMtp t;
    t.enorm = loader.vector(m.enorm);
    t.hnorm = loader.vector(m.hnorm);
    t.norm = loader.vector(m.norm);
    t.eh_proj = loader.matrix(m.eh_proj, "eh_proj");
    t.embed_tokens = m.embed_tokens.data == w.embed_tokens.data
                         ? d.embed_tokens
                         : loader.matrix(m.embed_tokens, "mtp.embed_tokens");
    t.head = m.head.data == w.lm_head.data ? d.lm_head : loader.matrix(m.head, "shared_head.head");
    t.layer = loader.layer(m.layer);
    d.mtp.push_back(t);
  }
  d.rope_frequency = loader.vector(rope_frequency);
  d.hopper = common_code(d);
  loader.finish();
  return d;
}

}  // namespace fathom::cuda
