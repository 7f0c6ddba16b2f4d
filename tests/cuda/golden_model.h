// The tiny checkpoints of tests/goldens, opened and bound.
#pragma once

#include <string>

#include "src/model/checkpoint.h"
#include "src/model/weights.h"

namespace fathom::test {

constexpr const char* kCheckpoints[] = {"v3", "v3-e8m0", "v2-lite", "v2", "moonlight", "kimi"};

struct Model {
  explicit Model(const std::string& name, bool mtp = false)
      : checkpoint(Checkpoint::open(FileSet::directory("tests/goldens/" + name))),
        config(read_config(checkpoint.files())),
        weights(bind_weights(checkpoint, config, {.mtp = mtp})) {}
  Checkpoint checkpoint;
  Config config;
  Weights weights;
};

}  // namespace fathom::test
