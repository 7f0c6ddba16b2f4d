// Bringing mapped pages in before they are read.
#pragma once

#include <cstddef>
#include <span>

namespace fathom {

// Makes the pages of mapped bytes present in one call instead of one fault for each: a hint, without errors.
void populate(std::span<const std::byte> mapped);

}  // namespace fathom
