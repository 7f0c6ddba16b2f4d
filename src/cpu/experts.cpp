#include "src/cpu/experts.h"

#include <algorithm>
#include <cassert>
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

// Runs experts that share a layout of x and of the hidden activations: two passes over their rows, all
// threads in each.
void run_group(const Machine& m, const RoutedCall& call, const Input& x, std::span<Job> jobs) {
  std::int64_t rows = 0;
  for (Job& job : jobs) {
    job.first_row = rows;
    rows += static_cast<std::int64_t>(job.slots.size());
  }
  const Linear& down = jobs.front().expert->down;
  Input hidden(down, rows);
  m.threads.run([&](int index) {
    for (const Job& job : jobs) {
      const Range part = share(job.expert->gate.rows, index, m.threads.count(), kPanelRows);
      std::vector<ProductRow> in;
      std::vector<float*> out;
      for (std::size_t i = 0; i < job.slots.size(); ++i) {
        const std::int64_t token = job.slots[i] / call.num_experts_per_tok;
        in.push_back({x.blocks(token), x.scales(token), nullptr});
        out.push_back(hidden.row(job.first_row + static_cast<std::int64_t>(i)));
      }
      gate_up(m.kernels, job.expert->gate, job.expert->up, part.begin, part.end, in, out);
    }
  });
  hidden.finish(m, call.rounding);
  m.threads.run([&](int index) {
    for (const Job& job : jobs) {
      const Range part = share(down.rows, index, m.threads.count(), kPanelRows);
      std::vector<ProductRow> in;
      for (std::size_t i = 0; i < job.slots.size(); ++i) {
        const std::int64_t row = job.first_row + static_cast<std::int64_t>(i);
        in.push_back({hidden.blocks(row), hidden.scales(row),
                      call.expert_out + job.slots[i] * down.rows + part.begin});
      }
      product(m.kernels, job.expert->down, part.begin, part.end, in);
    }
  });
}

bool same_layout(const Linear& a, const Linear& b) {
  return a.rows == b.rows && a.cols == b.cols && a.col0 == b.col0 && a.format == b.format;
}

// Multiply-adds between two polls: about 50 ms on two cores of 2020.
constexpr std::int64_t kGroupWork = 8'000'000'000;

}  // namespace

void mlp(const Machine& m, const Mlp& w, std::span<const float> x, Rounding rounding, float* y) {
  const Input in(m, w.gate, x, rounding);
  Input hidden(w.down, in.rows());
  m.threads.for_range(w.gate.rows, kPanelRows, [&](std::int64_t begin, std::int64_t end) {
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
    run_group(m, call, x, std::span(jobs).subspan(begin, end - begin));
    begin = end;
    poll();
  }
}

}  // namespace fathom::cpu
