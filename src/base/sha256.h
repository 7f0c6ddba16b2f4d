// SHA-256 (FIPS 180-4), streaming: fingerprints and `verify --hash`.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "src/base/file.h"

namespace fathom {

class Sha256 {
 public:
  // hardware false: without the processor's SHA instructions, for the test that compares both.
  explicit Sha256(bool hardware = true);
  void update(Bytes bytes);
  // The digest of everything so far as 64 lower-case hex digits. Nothing may be added afterwards.
  std::string hex_digest();

 private:
  void compress(const std::byte* data, std::size_t blocks);

  bool hardware_;
  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> block_{};
  std::size_t filled_ = 0;    // bytes waiting in block_
  std::uint64_t length_ = 0;  // bytes in all
};

// SHA-256 of one buffer.
std::string sha256_hex(Bytes bytes);

}  // namespace fathom
