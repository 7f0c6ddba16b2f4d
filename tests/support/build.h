// How the test program and what it tests were compiled.
#pragma once

namespace fathom::test {

// Under ASan or TSan: address space is reserved by the terabyte, freed memory stays in quarantine, a start takes long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

// Under TSan, by whichever compiler.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitized = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kThreadSanitized = true;
#else
inline constexpr bool kThreadSanitized = false;
#endif
#else
inline constexpr bool kThreadSanitized = false;
#endif

// With optimisation, as shipped.
#ifdef FATHOM_TEST_RELEASE
inline constexpr bool kRelease = true;
#else
inline constexpr bool kRelease = false;
#endif

}  // namespace fathom::test
