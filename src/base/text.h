// Small text helpers for messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

// "4,302,348,112"
std::string grouped(std::uint64_t n);

// A name from an untrusted file as it may stand in a message: unchanged if it is plain printable ASCII
// without spaces, else as a JSON string with escapes; at most about `max_bytes`, then "...".
std::string printable(std::string_view name, std::size_t max_bytes = 160);

}  // namespace fathom
