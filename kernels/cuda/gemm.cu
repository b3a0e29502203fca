// Matrix products: one thread keeps the whole sum of each of its outputs, in the order of k. Tiles only change who loads what.
#include "df32.cuh"

#define TILE 128  // rows and columns of c that a block makes
#define DEPTH 16  // steps of k in shared memory at once
#define PITCH (TILE + 4)
#define THREADS 256

// Some steps of k of one operand: step by step, each step the tile's 128 rows (or columns).
typedef float Stage[DEPTH * PITCH];

// One stage is read while the next is written. Read in fours.
#define STAGES                     \
  __shared__ __align__(16) Stage as[2]; \
  __shared__ __align__(16) Stage bs[2]

// a: (m, k) with rows lda apart. b: (n, k) with rows ldb apart, or (k, n) where B_ROWS_ARE_K. c: (m, n), rows ldc apart.
// ALIGNED: k, lda and ldb are multiples of 4, and a and b start on 16 bytes.
template <bool ALIGNED, bool B_ROWS_ARE_K>
INLINE void product(u32 first_row, u32 first_col, u32 m, u32 n, u32 k, const float* __restrict__ a, u32 lda,
                    const float* __restrict__ b, u32 ldb, float* __restrict__ c, u32 ldc, Stage* as, Stage* bs) {
  u32 t = threadIdx.x;
  // Each thread loads two fours of a and two of b a stage: of rows load_row and load_row + 64, from load_k on. Rows past the end
  // repeat the last one: nothing of them is kept.
  u32 load_row = t / 4, load_k = t % 4 * 4;
  const float* a_rows[2];
  const float* b_rows[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    a_rows[h] = a + (u64)min(first_row + load_row + h * 64, m - 1) * lda;
    b_rows[h] = b + (u64)min(first_col + load_row + h * 64, n - 1) * ldb;
  }
  // For b in rows of k: steps flat_k and flat_k + 8, of 128 columns each.
  u32 flat_k = t / 32, flat_col = t % 32 * 4;
  // The outputs of a thread: rows row .. row + 4 and row + 64 .. row + 68, columns likewise. A warp's are 4 × 8 such places, so
  // that its reads from shared memory are few and wide.
  u32 warp = t / 32, lane = t % 32;
  u32 row = (warp / 2 * 4 + lane / 8) * 4, col = (warp % 2 * 8 + lane % 8) * 4;
  float sum[8][8];
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 8; j++) sum[i][j] = 0.0f;

  float next_a[2][4], next_b[2][4];
  auto load = [&](u32 from) {
    u32 at = from + load_k;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      if (ALIGNED) {
        float4 x = at < k ? *(const float4*)(a_rows[h] + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        next_a[h][0] = x.x, next_a[h][1] = x.y, next_a[h][2] = x.z, next_a[h][3] = x.w;
      } else {
#pragma unroll
        for (int i = 0; i < 4; i++) next_a[h][i] = at + i < k ? a_rows[h][at + i] : 0.0f;
      }
      if (B_ROWS_ARE_K) {
        u32 p = from + flat_k + h * 8;
#pragma unroll
        for (int i = 0; i < 4; i++) next_b[h][i] = p < k ? b[(u64)p * ldb + min(first_col + flat_col + i, n - 1)] : 0.0f;
      } else if (ALIGNED) {
        float4 x = at < k ? *(const float4*)(b_rows[h] + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        next_b[h][0] = x.x, next_b[h][1] = x.y, next_b[h][2] = x.z, next_b[h][3] = x.w;
      } else {
#pragma unroll
        for (int i = 0; i < 4; i++) next_b[h][i] = at + i < k ? b_rows[h][at + i] : 0.0f;
      }
    }
  };
  auto store = [&](u32 half) {
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        as[half][(load_k + i) * PITCH + load_row + h * 64] = next_a[h][i];
        if (B_ROWS_ARE_K) bs[half][(flat_k + h * 8) * PITCH + flat_col + i] = next_b[h][i];
        else bs[half][(load_k + i) * PITCH + load_row + h * 64] = next_b[h][i];
      }
  };
  auto step = [&](u32 half, u32 p) {
    float x[8], y[8];
#pragma unroll
    for (int part = 0; part < 2; part++) {
      float4 u = *(const float4*)&as[half][p * PITCH + row + part * 64];
      float4 v = *(const float4*)&bs[half][p * PITCH + col + part * 64];
      x[part * 4] = u.x, x[part * 4 + 1] = u.y, x[part * 4 + 2] = u.z, x[part * 4 + 3] = u.w;
      y[part * 4] = v.x, y[part * 4 + 1] = v.y, y[part * 4 + 2] = v.z, y[part * 4 + 3] = v.w;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) sum[i][j] = fma_rn(x[i], y[j], sum[i][j]);
  };

  u32 half = 0;
  if (k > 0) {
    load(0);
    store(0);
  }
  __syncthreads();
  for (u32 from = 0; from < k; from += DEPTH) {
    bool more = from + DEPTH < k;
    if (more) load(from + DEPTH);
    if (from + DEPTH <= k) {
#pragma unroll
      for (u32 p = 0; p < DEPTH; p++) step(half, p);
    } else {
      // Padding must not enter a sum: it would turn −0 into +0.
#pragma unroll 1
      for (u32 p = 0; p < k - from; p++) step(half, p);
    }
    if (more) store(half ^ 1);
    __syncthreads();
    half ^= 1;
  }

#pragma unroll
  for (int i = 0; i < 8; i++) {
    u32 r = first_row + row + i % 4 + i / 4 * 64;
    if (r >= m) continue;
#pragma unroll
    for (int j = 0; j < 8; j++) {
      u32 q = first_col + col + j % 4 + j / 4 * 64;
      if (q < n) c[(u64)r * ldc + q] = sum[i][j];
    }
  }
}

// c = a · bᵀ: a linear layer. Blocks along x share their part of b, which is the weights.
KERNEL __launch_bounds__(THREADS, 2) gemm(u32 m, u32 n, u32 k, const float* a, const float* b, float* c) {
  STAGES;
  product<false, false>(blockIdx.x * TILE, blockIdx.y * TILE, m, n, k, a, k, b, k, c, n, as, bs);
}

// The same for k a multiple of 4 and a and b on 16 bytes.
KERNEL __launch_bounds__(THREADS, 2) gemm_aligned(u32 m, u32 n, u32 k, const float* a, const float* b, float* c) {
  STAGES;
  product<true, false>(blockIdx.x * TILE, blockIdx.y * TILE, m, n, k, a, k, b, k, c, n, as, bs);
}

// Attention works on (window, head) pairs, blockIdx.z of them: q and out are (window, token, heads · head_dim), k and v
// (window, token, key_value_heads · head_dim), scores (window, head, token, token). TILE is also the definition's BLOCK:
// queries of a block read the keys of all blocks up to their own, from the block on that holds the first key that the block's
// first query sees: `reach` is how many keys a query sees at most, its own among them.
INLINE u32 first_block(u32 query_block, u32 reach) {
  u32 first = query_block * TILE + 1;
  return first > reach ? (first - reach) / TILE : 0;
}

// scores = q · kᵀ, for every block of keys that is read.
KERNEL __launch_bounds__(THREADS, 2) attention_scores(u32 tokens, u32 heads, u32 key_value_heads, u32 head_dim, u32 reach,
                                                     const float* q, const float* keys, float* scores) {
  STAGES;
  if (blockIdx.y > blockIdx.x || blockIdx.y < first_block(blockIdx.x, reach)) return;
  u32 window = blockIdx.z / heads, head = blockIdx.z % heads;
  u32 q_stride = heads * head_dim, kv_stride = key_value_heads * head_dim;
  const float* a = q + (u64)window * tokens * q_stride + head * head_dim;
  const float* b = keys + (u64)window * tokens * kv_stride + head / (heads / key_value_heads) * head_dim;
  float* c = scores + (u64)blockIdx.z * tokens * tokens;
  product<false, false>(blockIdx.x * TILE, blockIdx.y * TILE, tokens, tokens, head_dim, a, q_stride, b, kv_stride, c, tokens, as,
                        bs);
}

// out = scores · v, over the keys that are read.
KERNEL __launch_bounds__(THREADS, 2) attention_mix(u32 tokens, u32 heads, u32 key_value_heads, u32 head_dim, u32 reach,
                                                  const float* scores, const float* values, float* out) {
  STAGES;
  u32 window = blockIdx.z / heads, head = blockIdx.z % heads;
  u32 q_stride = heads * head_dim, kv_stride = key_value_heads * head_dim;
  u32 first = first_block(blockIdx.x, reach) * TILE, end = min(tokens, (blockIdx.x + 1) * TILE);
  const float* a = scores + (u64)blockIdx.z * tokens * tokens + first;
  const float* b = values + ((u64)window * tokens + first) * kv_stride + head / (heads / key_value_heads) * head_dim;
  float* c = out + (u64)window * tokens * q_stride + head * head_dim;
  product<false, true>(blockIdx.x * TILE, blockIdx.y * TILE, tokens, head_dim, end - first, a, tokens, b, kv_stride, c, q_stride,
                       as, bs);
}
