// fathom quantize: a BF16 checkpoint as an FP8 one.
#include "src/app/commands.h"
#include "src/app/load.h"
#include "src/base/text.h"
#include "src/model/quantize.h"

namespace fathom {

Exit quantize_command(App& app) {
  const Options& o = app.options;
  if (o.positionals.size() != 2) throw Error(Exit::usage, "expected SRC and DST", "usage: fathom quantize SRC DST");
  const ResolvedModel source = resolve_model(o.positionals[0], app.environment, app.config);
  Threads threads(o.threads.value_or(usable_cores()));
  const QuantizeReport report =
      quantize_checkpoint(source.files, o.positionals[1], threads, [&](const QuantizeProgress& p) {
        app.terminal.progress(fmt::format("{}  {:.1f}/{:.1f} GB", p.shard, static_cast<double>(p.done) * 1e-9,
                                          static_cast<double>(p.total) * 1e-9));
      });
  app.terminal.progress("");
  app.terminal.out().text(fmt::format("{}: {} tensors quantised, {} copied, {} bytes instead of {}\n", o.positionals[1],
                                      grouped(report.quantised), grouped(report.copied), grouped(report.bytes_after),
                                      grouped(report.bytes_before)));
  app.terminal.out().end_text();
  return Exit::ok;
}

}  // namespace fathom
