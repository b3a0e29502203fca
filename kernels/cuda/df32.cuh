// DF32's arithmetic in CUDA: every operation named with its rounding, nothing left to the compiler to fuse or approximate.
// The definition is the portable path beside it in ../src; what the compiler made of this is checked in the PTX.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

#define KERNEL extern "C" __global__ void
#define INLINE static __device__ __forceinline__

INLINE float add(float a, float b) { return __fadd_rn(a, b); }
INLINE float subtract(float a, float b) { return __fsub_rn(a, b); }
INLINE float multiply(float a, float b) { return __fmul_rn(a, b); }
INLINE float divide(float a, float b) { return __fdiv_rn(a, b); }
INLINE float square_root(float a) { return __fsqrt_rn(a); }
INLINE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }

INLINE u32 bits(float x) { return __float_as_uint(x); }
INLINE float from_bits(u32 x) { return __uint_as_float(x); }
INLINE float negated(float x) { return from_bits(bits(x) ^ 0x80000000u); }
INLINE bool is_nan(float x) { return (bits(x) & 0x7fffffffu) > 0x7f800000u; }
INLINE bool is_finite(float x) { return (bits(x) & 0x7f800000u) != 0x7f800000u; }

// scalar.rs: exp.
INLINE float exponential(float x) {
  bool low = x < -87.0f;
  float clamped = low ? -87.0f : x;
  clamped = clamped > 88.0f ? 88.0f : clamped;
  float t = fma_rn(clamped, from_bits(0x3fb8aa3b), 12582912.0f);
  float n = subtract(t, 12582912.0f);
  float r = fma_rn(n, negated(from_bits(0x3f318000)), clamped);
  r = fma_rn(n, negated(from_bits(0xb95e8083)), r);
  float q = fma_rn(from_bits(0x3ab685cd), r, from_bits(0x3c090767));
  q = fma_rn(q, r, from_bits(0x3d2aaa8c));
  q = fma_rn(q, r, from_bits(0x3e2aaa6e));
  q = fma_rn(q, r, from_bits(0x3f000000));
  float y = add(1.0f, fma_rn(q, multiply(r, r), r));
  float scaled = from_bits(bits(y) + (bits(t) << 23));
  float result = is_nan(clamped) ? clamped : scaled;
  return low ? 0.0f : result;
}

// scalar.rs: silu.
INLINE float silu(float x) { return divide(x, add(1.0f, exponential(negated(x)))); }

// reduce.rs: the warp's 32 lanes are the definition's 32 lanes. Every lane must take part.
INLINE float fold_sum(float lane) {
  for (int half = 16; half > 0; half /= 2) lane = add(lane, __shfl_down_sync(0xffffffffu, lane, half));
  return __shfl_sync(0xffffffffu, lane, 0);
}
INLINE float larger(float max, float x) { return x > max ? x : max; }
INLINE float fold_max(float lane) {
  for (int half = 16; half > 0; half /= 2) lane = larger(lane, __shfl_down_sync(0xffffffffu, lane, half));
  return __shfl_sync(0xffffffffu, lane, 0);
}

// One warp a row.
#define ROWS_PER_BLOCK 8
INLINE u32 warp_row() { return blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / 32; }
INLINE u32 warp_lane() { return threadIdx.x % 32; }

// One thread an element.
INLINE u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
