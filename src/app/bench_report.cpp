#include "src/app/bench_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "src/base/error.h"
#include "src/base/json.h"

namespace fathom {
namespace {

json::Value number(double v) { return json::Value(std::round(v * 1e4) / 1e4); }
json::Value text(std::string_view s) { return json::Value(std::string(s)); }
json::Value count(std::int64_t n) { return json::Value(n); }

double prefill_tps(const BenchDepth& d) { return d.prefill_s > 0 ? d.context / d.prefill_s : 0; }
double decode_tps(const BenchDepth& d) { return d.decode_s > 0 ? 1 / d.decode_s : 0; }
double rate(const BenchDepth& d) { return static_cast<double>(d.bytes) * decode_tps(d); }

double seconds(std::int64_t bytes, double rate) { return rate > 0 ? static_cast<double>(bytes) / rate : 0; }

// How evenly the experts were used: the least, the median and the most used one's choices.
struct Spread {
  std::int64_t least = 0, median = 0, most = 0, unused = 0;
};
Spread spread_of(std::vector<std::int64_t> counts) {
  std::sort(counts.begin(), counts.end());
  return {counts.front(), counts[counts.size() / 2], counts.back(), std::count(counts.begin(), counts.end(), 0)};
}

}  // namespace

double BenchReport::least_seconds(const BenchDepth& d) const {
  if (!host) return seconds(d.bytes, read_rate);
  return seconds(d.bytes - host->expert_bytes, read_rate) + seconds(host->expert_bytes, host->expert_rate);
}

double BenchReport::least_seconds_by_memory(const BenchDepth& d) const {
  return seconds(d.bytes - host->expert_bytes, read_rate) + seconds(host->expert_bytes, host->memory_rate);
}

std::string bench_text(const BenchReport& r) {
  std::string out = fmt::format("{}\n{}; {}; memory reads at {:.1f} GB/s\n", r.model, r.placement, r.numerics, r.read_rate / 1e9);
  if (r.host)
    out += fmt::format("experts in host memory: {:.1f} MB a token; the expert code alone runs at {:.1f} GB/s, memory reads at {:.1f} GB/s\n",
                       static_cast<double>(r.host->expert_bytes) / 1e6, r.host->expert_rate / 1e9, r.host->memory_rate / 1e9);
  out += fmt::format("{:>8} {:>14} {:>14} {:>10} {:>10} {:>10} {:>10}{}\n", "context", "prefill tok/s", "decode tok/s",
                     "ms/token", "MB/token", "GB/s", "roofline", r.host ? fmt::format(" {:>10}", "by memory") : "");
  for (const BenchDepth& d : r.depths) {
    out += fmt::format("{:>8} {:>14.1f} {:>14.2f} {:>10.3f} {:>10.1f} {:>10.1f} {:>8.1f} %", d.context, prefill_tps(d),
                       decode_tps(d), d.decode_s * 1e3, static_cast<double>(d.bytes) / 1e6, rate(d) / 1e9,
                       100 * r.least_seconds(d) * decode_tps(d));
    if (r.host)
      out += fmt::format(" {:>8.1f} %   ({:.3f} ms on experts in host memory)", 100 * r.least_seconds_by_memory(d) * decode_tps(d),
                         d.host_s * 1e3);
    out += '\n';
  }
  if (!r.stages.empty()) {
    out += fmt::format("{:<28} {:>10} {:>9}\n", "stages, by themselves", "ms/token", "launches");
    for (const BenchStage& s : r.stages) out += fmt::format("{:<28} {:>10.3f} {:>9}\n", s.stages, s.milliseconds, s.launches);
  }
  for (const BenchDraw& d : r.draws)
    out += fmt::format("drawing a token, {}: {:.1f} us{}\n", d.how, d.microseconds, d.on_host ? " on the host" : "");
  if (!r.experts.empty()) {
    const Spread s = spread_of(r.experts);
    out += fmt::format("experts: {} choices by {} tokens among {}; the least used {}, the median {}, the most used {}, {} unused\n",
                       std::accumulate(r.experts.begin(), r.experts.end(), std::int64_t{0}), r.expert_tokens, r.experts.size(),
                       s.least, s.median, s.most, s.unused);
  }
  return out;
}

std::string bench_csv(const BenchReport& r) {
  std::string out =
      "context,prefill_tps,decode_tps,decode_ms,bytes_per_token,gb_per_s,read_gb_per_s,roofline_share,expert_bytes,expert_gb_per_s\n";
  for (const BenchDepth& d : r.depths)
    out += fmt::format("{},{:.2f},{:.3f},{:.4f},{},{:.2f},{:.2f},{:.4f},{},{:.2f}\n", d.context, prefill_tps(d), decode_tps(d),
                       d.decode_s * 1e3, d.bytes, rate(d) / 1e9, r.read_rate / 1e9, r.least_seconds(d) * decode_tps(d),
                       r.host ? r.host->expert_bytes : 0, r.host ? r.host->expert_rate / 1e9 : 0.0);
  return out;
}

std::string bench_json(const BenchReport& r) {
  json::Array depths, stages, experts;
  for (const BenchDepth& d : r.depths) {
    json::Object o{{"context", count(d.context)},
                   {"prefill_tps", number(prefill_tps(d))},
                   {"decode_tps", number(decode_tps(d))},
                   {"decode_ms", number(d.decode_s * 1e3)},
                   {"bytes_per_token", count(d.bytes)},
                   {"decode_gb_per_s", number(rate(d) / 1e9)},
                   {"roofline_share", number(r.least_seconds(d) * decode_tps(d))}};
    if (r.host) {
      o.emplace_back("roofline_share_by_memory", number(r.least_seconds_by_memory(d) * decode_tps(d)));
      o.emplace_back("host_ms", number(d.host_s * 1e3));
    }
    depths.emplace_back(std::move(o));
  }
  for (const BenchStage& s : r.stages)
    stages.emplace_back(json::Object{
        {"stages", text(s.stages)}, {"ms", number(s.milliseconds)}, {"launches", count(s.launches)}});
  for (std::int64_t n : r.experts) experts.emplace_back(count(n));
  json::Object o{{"schema", text("fathom.bench/1")},
                 {"model", text(r.model)},
                 {"placement", text(r.placement)},
                 {"numerics", text(r.numerics)},
                 {"bytes_total", count(r.bytes_total)},
                 {"read_gb_per_s", number(r.read_rate / 1e9)},
                 {"depths", json::Value(std::move(depths))}};
  if (r.host)
    o.emplace_back("host_experts", json::Value(json::Object{{"bytes_per_token", count(r.host->expert_bytes)},
                                                            {"expert_gb_per_s", number(r.host->expert_rate / 1e9)},
                                                            {"memory_gb_per_s", number(r.host->memory_rate / 1e9)}}));
  if (!r.stages.empty()) o.emplace_back("stages", json::Value(std::move(stages)));
  if (!r.draws.empty()) {
    json::Array draws;
    for (const BenchDraw& d : r.draws)
      draws.emplace_back(
          json::Object{{"how", text(d.how)}, {"us", number(d.microseconds)}, {"on_host", json::Value(d.on_host)}});
    o.emplace_back("draws", json::Value(std::move(draws)));
  }
  if (!r.experts.empty()) {
    o.emplace_back("expert_tokens", count(r.expert_tokens));
    o.emplace_back("experts", json::Value(std::move(experts)));
  }
  return json::dump(json::Value(std::move(o))) + "\n";
}

}  // namespace fathom
