// Kernels on rows: one warp a row, lane l takes elements l, l + 32, …
#include "df32.cuh"

// y = (x · 1/√(mean(x²) + ε)) · gain.
KERNEL rms_norm(u32 rows, u32 width, float epsilon, const float* x, const float* gain, float* y) {
  u32 row = warp_row(), lane = warp_lane();
  if (row >= rows) return;
  x += (u64)row * width;
  y += (u64)row * width;
  float sum = 0.0f;
  for (u32 i = lane; i < width; i += 32) sum = fma_rn(x[i], x[i], sum);
  float mean_square = divide(fold_sum(sum), __uint2float_rn(width));
  float scale = divide(1.0f, square_root(add(mean_square, epsilon)));
  for (u32 i = lane; i < width; i += 32) y[i] = multiply(multiply(x[i], scale), gain[i]);
}

// Rows are queries of (window, head, token): softmax(scale · score) over the keys that the query sees (its own and those
// before it, at most `reach`), +0 for the others that are read.
KERNEL causal_softmax(u32 rows, u32 tokens, u32 reach, float scale, float* scores) {
  u32 row = warp_row(), lane = warp_lane();
  if (row >= rows) return;
  float* score = scores + (u64)row * tokens;
  u32 query = row % tokens, block = query / 128 * 128, end = query + 1;
  u32 start = end > reach ? end - reach : 0;
  u32 first_read = block + 1 > reach ? (block + 1 - reach) / 128 * 128 : 0, end_read = min(tokens, block + 128);
  float max = -__int_as_float(0x7f800000);
  for (u32 i = start + lane; i < end; i += 32) {
    score[i] = multiply(score[i], scale);
    max = larger(max, score[i]);
  }
  max = fold_max(max);
  float sum = 0.0f;
  for (u32 i = start + lane; i < end; i += 32) {
    score[i] = exponential(subtract(score[i], max));
    sum = add(sum, score[i]);
  }
  float share = divide(1.0f, fold_sum(sum));
  for (u32 i = start + lane; i < end; i += 32) score[i] = multiply(score[i], share);
  for (u32 i = first_read + lane; i < start; i += 32) score[i] = 0.0f;
  for (u32 i = end + lane; i < end_read; i += 32) score[i] = 0.0f;
}

// scalar.rs: ln64.
INLINE double natural_logarithm(double x) {
  long long pattern = __double_as_longlong(x);
  long long exponent = (pattern >> 52) - 1023;
  double m = __longlong_as_double((pattern & 0x000fffffffffffffLL) | 0x3ff0000000000000LL);
  if (m > __longlong_as_double(0x3ff6a09e667f3bcdLL)) {
    m = __dmul_rn(m, 0.5);
    exponent += 1;
  }
  double s = __ddiv_rn(__dsub_rn(m, 1.0), __dadd_rn(m, 1.0));
  double z = __dmul_rn(s, s);
  double p = __ddiv_rn(1.0, 27.0);
#pragma unroll 1
  for (int i = 25; i >= 1; i -= 2) p = __dadd_rn(__dmul_rn(p, z), __ddiv_rn(1.0, __int2double_rn(i)));
  double r = __dmul_rn(__dmul_rn(2.0, s), p);
  double e = __ll2double_rn(exponent);
  return __dadd_rn(__dmul_rn(e, 0.6931471805598903), __dadd_rn(__dmul_rn(e, 5.497923018708371e-14), r));
}

// The loss of each row's target in 2⁻³² nats; −1 where it isn't finite or above 10⁶ nats.
KERNEL cross_entropy(u32 rows, u32 width, const float* logits, const u32* targets, long long* losses) {
  u32 row = warp_row(), lane = warp_lane();
  if (row >= rows) return;
  logits += (u64)row * width;
  float max = -__int_as_float(0x7f800000);
  for (u32 i = lane; i < width; i += 32) max = larger(max, logits[i]);
  max = fold_max(max);
  float sum = 0.0f;
  for (u32 i = lane; i < width; i += 32) sum = add(sum, exponential(subtract(logits[i], max)));
  sum = fold_sum(sum);
  if (lane != 0) return;
  long long loss = -1;
  u32 target = targets[row];
  if (target < width && is_finite(max) && is_finite(sum) && is_finite(logits[target])) {
    double nats = __dadd_rn(__dsub_rn((double)max, (double)logits[target]), natural_logarithm((double)sum));
    if (nats >= 0.0 && nats <= 1e6) {
      double rounded = __dsub_rn(__dadd_rn(__dmul_rn(nats, 4294967296.0), 4503599627370496.0), 4503599627370496.0);
      loss = __double2ll_rz(rounded);
    }
  }
  losses[row] = loss;
}
