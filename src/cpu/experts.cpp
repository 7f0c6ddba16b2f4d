#include "src/cpu/experts.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <memory>
#include <thread>
#include <vector>

namespace fathom::cpu {
namespace {

// Rows of gate and up computed before their silu product: 64 columns of a few hundred tokens stay in the
// cache.
constexpr std::int64_t kGateRows = 64;

// hidden[i][begin, end) = silu(gate x_i) * (up x_i), for the rows x of one expert.
void gate_up(const Kernels& k, const Linear& gate, const Linear& up, std::int64_t begin, std::int64_t end,
             std::span<const ProductRow> x, std::span<float* const> hidden) {
  if (x.empty()) return;
  const auto rows = static_cast<std::int64_t>(x.size());
  Floats gated(rows * kGateRows);
  std::vector<ProductRow> to_gate(x.begin(), x.end()), to_hidden(x.begin(), x.end());
  for (std::int64_t r = begin; r < end; r += kGateRows) {
    const std::int64_t stop = std::min(r + kGateRows, end);
    for (std::size_t i = 0; i < x.size(); ++i) {
      to_gate[i].y = gated.data() + static_cast<std::int64_t>(i) * kGateRows;
      to_hidden[i].y = hidden[i] + r;
    }
    product(k, gate, r, stop, to_gate);
    product(k, up, r, stop, to_hidden);
    for (std::size_t i = 0; i < x.size(); ++i) k.silu_times(to_gate[i].y, to_hidden[i].y, stop - r);
  }
}

// One expert and the slots (token * num_experts_per_tok + slot) that chose it.
struct Job {
  const Expert* expert;
  std::vector<std::int64_t> slots;
  std::int64_t first_row = 0;  // of its rows in the group's hidden activations
};

std::vector<Job> jobs_of(const RoutedCall& call) {
  std::vector<std::vector<std::int64_t>> slots(call.table.experts.size());
  for (std::size_t i = 0; i < call.ids.size(); ++i)
    if (call.ids[i] >= 0)
      slots[static_cast<std::size_t>(call.ids[i])].push_back(static_cast<std::int64_t>(i));
  std::vector<Job> jobs;
  for (std::size_t e = 0; e < slots.size(); ++e)
    if (!slots[e].empty() && call.table.experts[e].device.is_host())
      jobs.push_back({&call.table.experts[e], std::move(slots[e])});
  return jobs;
}

// Bytes of weights that a piece of work reads, about: 10 us of a core, so that a slow one delays the others
// little.
constexpr std::int64_t kPieceBytes = 128 << 10;

std::int64_t rows_per_piece(const Linear& l, std::int64_t matrices) {
  const std::int64_t panel = kPanelRows * matrices * std::max<std::int64_t>(l.cols * l.format.bits / 8, 1);
  return kPanelRows * std::max<std::int64_t>(1, kPieceBytes / panel);
}

// Experts that share a layout of x and of the hidden activations, as one list of pieces: gate and up of every
// expert, then down of every expert. No barrier lies between: when the first down is begun, the first
// expert's hidden activations have long been done.
class Group {
 public:
  Group(const Machine& m, const RoutedCall& call, const Input& x, std::span<Job> jobs)
      : m_(m),
        call_(call),
        x_(x),
        jobs_(jobs),
        down_(jobs.front().expert->down),
        hidden_(down_, number_rows(jobs)) {
    hidden_.prepare(call.rounding);
    gate_rows_ = rows_per_piece(jobs.front().expert->gate, 2);
    down_rows_ = rows_per_piece(down_, 1);
    gate_pieces_ = pieces(down_.cols, gate_rows_);
    down_pieces_ = pieces(down_.rows, down_rows_);
    state_ = std::vector<State>(jobs.size());
    for (State& s : state_)
      s.left = gate_pieces_, s.hidden_done = gate_pieces_ == 0;  // a rank without a share
  }

  void run() {
    const std::int64_t first_down = static_cast<std::int64_t>(jobs_.size()) * gate_pieces_;
    m_.threads.run_in_order(first_down + static_cast<std::int64_t>(jobs_.size()) * down_pieces_,
                            [&](std::int64_t i) {
                              if (i < first_down)
                                gate_up_piece(static_cast<std::size_t>(i / gate_pieces_), i % gate_pieces_);
                              else
                                down_piece(static_cast<std::size_t>((i - first_down) / down_pieces_),
                                           (i - first_down) % down_pieces_);
                            });
  }

 private:
  struct State {
    std::atomic<std::int64_t> left{0};  // pieces of gate and up not yet done
    std::atomic<bool> hidden_done{false};
  };

  static std::int64_t pieces(std::int64_t rows, std::int64_t each) { return (rows + each - 1) / each; }
  static std::int64_t number_rows(std::span<Job> jobs) {
    std::int64_t rows = 0;
    for (Job& job : jobs) {
      job.first_row = rows;
      rows += static_cast<std::int64_t>(job.slots.size());
    }
    return rows;
  }

  void gate_up_piece(std::size_t j, std::int64_t piece) {
    const Job& job = jobs_[j];
    // Also after an exception: nobody may wait for this expert for ever.
    const auto done = [&](void*) {
      if (state_[j].left.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
      hidden_.finish_rows(job.first_row, job.first_row + static_cast<std::int64_t>(job.slots.size()),
                          call_.rounding);
      state_[j].hidden_done.store(true, std::memory_order_release);
    };
    const std::unique_ptr<Group, decltype(done)> at_end(this, done);
    std::vector<ProductRow> in;
    std::vector<float*> out;
    for (std::size_t i = 0; i < job.slots.size(); ++i) {
      const std::int64_t token = job.slots[i] / call_.num_experts_per_tok;
      in.push_back({x_.blocks(token), x_.scales(token), nullptr});
      out.push_back(hidden_.row(job.first_row + static_cast<std::int64_t>(i)));
    }
    const std::int64_t begin = piece * gate_rows_;
    gate_up(m_.kernels, job.expert->gate, job.expert->up, begin, std::min(begin + gate_rows_, down_.cols), in,
            out);
  }

  void down_piece(std::size_t j, std::int64_t piece) {
    const Job& job = jobs_[j];
    // All of its pieces were begun before this one: it is about to come true, unless a processor was taken
    // away.
    for (int looks = 0; !state_[j].hidden_done.load(std::memory_order_acquire); ++looks) {
      __builtin_ia32_pause();
      if (looks > 1000) std::this_thread::yield();
    }
    const std::int64_t begin = piece * down_rows_;
    std::vector<ProductRow> in;
    for (std::size_t i = 0; i < job.slots.size(); ++i) {
      const std::int64_t row = job.first_row + static_cast<std::int64_t>(i);
      in.push_back(
          {hidden_.blocks(row), hidden_.scales(row), call_.expert_out + job.slots[i] * down_.rows + begin});
    }
    product(m_.kernels, job.expert->down, begin, std::min(begin + down_rows_, down_.rows), in);
  }

  const Machine& m_;
  const RoutedCall& call_;
  const Input& x_;
  std::span<Job> jobs_;
  const Linear& down_;
  Input hidden_;
  std::int64_t gate_rows_ = 0, down_rows_ = 0, gate_pieces_ = 0, down_pieces_ = 0;
  std::vector<State> state_;
};

bool same_layout(const Linear& a, const Linear& b) {
  return a.rows == b.rows && a.cols == b.cols && a.col0 == b.col0 && a.format == b.format;
}

// Multiply-adds between two polls: about 50 ms on two cores of 2020.
constexpr std::int64_t kGroupWork = 8'000'000'000;

}  // namespace

void mlp(const Machine& m, const Mlp& w, std::span<const float> x, Rounding rounding, float* y) {
  const Input in(m, w.gate, x, rounding);
  Input hidden(w.down, in.rows());
  m.threads.for_range(w.gate.rows, share_rows(w.gate, 2 * in.rows()),
                      [&](std::int64_t begin, std::int64_t end) {
                        std::vector<ProductRow> rows;
                        std::vector<float*> out;
                        for (std::int64_t t = 0; t < in.rows(); ++t) {
                          rows.push_back({in.blocks(t), in.scales(t), nullptr});
                          out.push_back(hidden.row(t));
                        }
                        gate_up(m.kernels, w.gate, w.up, begin, end, rows, out);
                      });
  hidden.finish(m, rounding);
  product(m, w.down, hidden, y);
}

void routed_experts(const Machine& m, const RoutedCall& call, FunctionRef<void()> poll) {
  std::vector<Job> jobs = jobs_of(call);
  if (jobs.empty()) return;
  std::size_t begin = 0;
  const Input x(m, jobs.front().expert->gate, call.x, call.rounding);
  while (begin < jobs.size()) {
    const Expert& first = *jobs[begin].expert;
    assert(first.gate.cols == jobs.front().expert->gate.cols &&
           first.gate.col0 == jobs.front().expert->gate.col0);
    const std::int64_t work_per_row = 3 * first.gate.rows * first.gate.cols;
    std::int64_t work = 0;
    std::size_t end = begin;
    while (end < jobs.size() && work < kGroupWork && same_layout(jobs[end].expert->down, first.down))
      work += work_per_row * static_cast<std::int64_t>(jobs[end++].slots.size());
    Group(m, call, x, std::span(jobs).subspan(begin, end - begin)).run();
    begin = end;
    poll();
  }
}

}  // namespace fathom::cpu
