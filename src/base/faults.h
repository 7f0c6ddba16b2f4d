// Fault injection: every allocation of consequence, file operation and CUDA call asks here whether to fail.
//
// The only process-wide state in fathom, and only tests arm it; unarmed, a call is one relaxed load.
#pragma once

namespace fathom::faults {

enum class Site { memory, io, cuda };

// The nth call from now on (1 = the next) fails at `site`; persistent: so does every later one.
void arm(Site site, long nth, bool persistent);
void disarm();
// True if this call is to fail.
bool trip(Site site) noexcept;
// Calls seen at `site` since the last arm() or disarm(); counted only while any site is armed.
long seen(Site site) noexcept;

}  // namespace fathom::faults
