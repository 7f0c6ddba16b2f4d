#include "src/app/doctor_self_test.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "cuda/device.h"
#include "src/app/gpu_lock.h"
#include "src/app/load.h"
#include "src/app/progress.h"
#include "src/engine/engine.h"
#include "src/engine/timeline.h"

namespace fathom {
namespace {

constexpr int kPrompt = 200, kSteps = 24;
// Both passes round where the same numerics say so and sum in different orders. On small random models this moves logits by
// up to 1e-2 (design.md section 6); a wrong kernel moves them by their own size.
constexpr double kBound = 2e-2;

std::int32_t best_of(const std::vector<float>& logits, std::int32_t valid_ids) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.begin() + valid_ids) - logits.begin());
}

double relative_difference(const std::vector<float>& a, const std::vector<float>& b, std::int32_t valid_ids) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(valid_ids); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  return size > 0 ? std::sqrt(difference / size) : difference > 0 ? INFINITY : 0;
}

std::unique_ptr<Engine> engine_on(App& app, BackendChoice backend) {
  EngineOptions options = engine_options_of(app);
  options.backend = backend;
  // One value for both, the default of generated rows on a GPU.
  if (!options.activations) options.activations = ActivationType::bf16;
  options.tokenizer_required = false;
  options.context = std::min(options.context.value_or(1024), 1024);
  return Engine::load(files_of(app), options);
}

}  // namespace

Comparison compare_passes(Forward& tested, Forward& reference, std::int32_t valid_ids, int prompt, int steps) {
  std::vector<std::int32_t> ids;
  // A fixed walk over the vocabulary: any ids do, but the same on every machine.
  for (int i = 0; i < prompt; ++i) ids.push_back(static_cast<std::int32_t>((std::int64_t{i} * 7919 + 13) % valid_ids));
  Timeline a(tested), b(reference);
  std::vector<float> got = a.sync(ids), want = b.sync(ids);
  Comparison c;
  for (int step = 0;; ++step) {
    const double d = relative_difference(got, want, valid_ids);
    // NaN is worse than any number.
    if (!(d <= c.worst)) c.worst = std::isnan(d) ? INFINITY : d, c.worst_position = prompt - 1 + step;
    const std::int32_t next = best_of(want, valid_ids);
    c.same_best += best_of(got, valid_ids) == next ? 1 : 0;
    ++c.positions;
    if (step == steps) return c;
    got = a.append(next);
    want = b.append(next);
  }
}

Exit self_test_command(App& app) {
  cuda::NoDevice none;
  if (cuda::devices(&none).empty())
    throw Error(Exit::unsupported, fmt::format("no GPU to test: {}", none.why), "the CPU pass is tested by `make test`");
  Progress progress(app.terminal, "comparing GPU and CPU", true);
  const std::unique_ptr<Engine> gpu = engine_on(app, BackendChoice::cuda), cpu = engine_on(app, BackendChoice::cpu);
  warn_of_shared_gpu(app);
  const std::unique_ptr<Forward> tested = gpu->make_forward(), reference = cpu->make_forward();
  const Comparison c = compare_passes(*tested, *reference, cpu->valid_ids(), kPrompt, kSteps);
  const std::string text = fmt::format(
      "{} against {}: {} of {} positions prefer the same token, logits differ by at most {:.1e} (at position {}; accepted {:.0e})",
      tested->describe(), reference->describe(), c.same_best, c.positions, c.worst, c.worst_position, kBound);
  if (c.worst > kBound) throw Error(Exit::compute, text, "run it again; if it stays so, please report this line");
  app.terminal.out().raw(app.options.json
                             ? fmt::format("{{\"schema\":\"fathom.self-test/1\",\"positions\":{},\"same_best\":{},\"worst\":{},\"accepted\":{}}}\n",
                                           c.positions, c.same_best, c.worst, kBound)
                             : text + "\n");
  return Exit::ok;
}

}  // namespace fathom
