// Kernels without reductions: one thread an element.
#include "df32.cuh"

// x = the embedding's row of each token.
KERNEL embed(u32 rows, u32 width, const u32* tokens, const float* embedding, float* x) {
  u64 at = thread_index();
  if (at < (u64)rows * width) x[at] = embedding[(u64)tokens[at / width] * width + at % width];
}

// Turns every head of every row by its position's angles: pairs are (i, i + head_dim / 2). One thread a pair; the row's
// position in its window is row % tokens; cos and sin are (position, head_dim / 2).
KERNEL rope(u32 rows, u32 width, u32 head_dim, u32 tokens, const float* cos, const float* sin, float* states) {
  u64 at = thread_index();
  u32 half = head_dim / 2, pairs = width / 2;
  if (at >= (u64)rows * pairs) return;
  u32 row = at / pairs, pair = at % pairs, i = pair % half;
  u64 angle = (u64)(row % tokens) * half + i;
  float* head = states + (u64)row * width + pair / half * head_dim;
  float x = head[i], y = head[i + half];
  head[i] = fma_rn(x, cos[angle], negated(multiply(y, sin[angle])));
  head[i + half] = fma_rn(x, sin[angle], multiply(y, cos[angle]));
}

// gate = SiLU(gate) · up.
KERNEL swiglu(u64 len, const float* up, float* gate) {
  u64 at = thread_index();
  if (at < len) gate[at] = multiply(silu(gate[at]), up[at]);
}

// x = x + y.
KERNEL add_to(u64 len, const float* y, float* x) {
  u64 at = thread_index();
  if (at < len) x[at] = add(x[at], y[at]);
}

// Every row of x plus one bias.
KERNEL add_bias(u32 rows, u32 width, const float* bias, float* x) {
  u64 at = thread_index();
  if (at < (u64)rows * width) x[at] = add(x[at], bias[at % width]);
}

// weights[i] = fma(−rate, level, weights[i]) for each index; not_finite becomes 1 where a result isn't finite. No index may
// come twice.
KERNEL subtract_sparse(u32 count, u32 len, float rate, const float* levels, const u32* indices, const unsigned char* codes,
                       float* weights, u32* not_finite) {
  u64 at = thread_index();
  if (at >= count) return;
  u32 index = indices[at];
  if (index >= len) return;
  float stepped = fma_rn(negated(rate), levels[codes[at]], weights[index]);
  weights[index] = stepped;
  if (!is_finite(stepped)) *not_finite = 1;
}

// sums[i] += level, counts[i] += 1 for each index. No index may come twice in one call.
KERNEL accumulate_sparse(u32 count, u32 len, const float* levels, const u32* indices, const unsigned char* codes, float* sums,
                         u32* counts) {
  u64 at = thread_index();
  if (at >= count) return;
  u32 index = indices[at];
  if (index >= len) return;
  sums[index] = add(sums[index], levels[codes[at]]);
  counts[index] += 1;
}

// weights[i] = fma(−rate, sums[i] / counts[i], weights[i]) where that is finite.
KERNEL subtract_mean(u64 len, float rate, const float* sums, const u32* counts, float* weights) {
  u64 at = thread_index();
  if (at >= len) return;
  float mean = divide(sums[at], __uint2float_rn(counts[at]));
  float stepped = fma_rn(negated(rate), mean, weights[at]);
  if (is_finite(stepped)) weights[at] = stepped;
}
