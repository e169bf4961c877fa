// What this machine's processor can do, as the operating system tells it.
#pragma once

namespace ntre {

// Whether the processor multiplies bfloat16; without, an engine only imitates it, slower than float32.
bool native_bf16();

// Whether it multiplies 8-bit integers with 32-bit sums.
bool native_int8();

}  // namespace ntre
