// Instruction sets chosen when the library is loaded.
#pragma once

// One clone for every x86-64 level; elsewhere the baseline of the platform, and with Clang, which takes no clones of
// templates. No -ffast-math: NaN must stay NaN; only the order of the sums is free.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define SGR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SGR_CLONES
#endif
