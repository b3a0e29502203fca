// A sparse update's kernels: error feedback, the largest values of each tile, codes and levels, codes in as few bits as they
// have. What is left for the CPU is the range coder, of a hundredth of the values.
#include "df32.cuh"

typedef unsigned char u8;

#define THREADS 256

// tile.rs: feed_back. values = decay · feedback + values, rounded twice.
KERNEL feed_back(u64 len, float decay, const float* feedback, float* values) {
  u64 at = thread_index();
  if (at < len) values[at] = add(values[at], multiply(decay, feedback[at]));
}

INLINE u32 magnitude(float x) { return bits(x) & 0x7fffffffu; }
INLINE u32 least_of(u32 a, u32 b) { return a < b ? a : b; }

// protocol/codec/tiles.rs: kept.
INLINE u32 kept(u32 side, u32 k, u32 numel) {
  u32 full = side * side;
  u32 scaled = (u32)((2ull * numel * k + full) / (2ull * full));
  return scaled < 1 ? 1 : scaled;
}

// The sum over the block, for every thread. `parts` has a place for each warp.
INLINE u32 block_sum(u32 own, u32* parts) {
  for (int half = 16; half > 0; half /= 2) own += __shfl_down_sync(0xffffffffu, own, half);
  // What was read from the last sum is read.
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = own;
  __syncthreads();
  u32 sum = 0;
  for (u32 warp = 0; warp < THREADS / 32; warp++) sum += parts[warp];
  return sum;
}

// topk.rs: top_k, for every tile of a (rows, cols) tensor; one block a tile, tiles from left to right and then from top to
// bottom. A vector of n values has one row. Writes, tile after tile, the flat index and the value of each that is kept.
KERNEL top_k(u32 rows, u32 cols, u32 side, u32 k, const float* values, u32* indices, float* chosen) {
  __shared__ u32 parts[THREADS / 32];
  __shared__ u32 above_before[THREADS];
  __shared__ u32 ties_before[THREADS];
  u32 across = (cols + side - 1) / side;
  u32 down_at = blockIdx.x / across, across_at = blockIdx.x % across;
  u32 height = least_of(side, rows - down_at * side), width = least_of(side, cols - across_at * side);
  u32 numel = height * width, wanted = kept(side, k, numel);
  // Whole rows of tiles above, and tiles of this row to the left: of those none but the last is narrower.
  u32 full_across = cols / side, narrow = cols % side;
  u64 row_of_tiles = (u64)full_across * kept(side, k, side * side) + (narrow ? kept(side, k, side * narrow) : 0);
  u64 place = down_at * row_of_tiles + (u64)across_at * kept(side, k, height * side);
  u64 first = (u64)down_at * side * cols + (u64)across_at * side;

  // The largest magnitude that at least as many as wanted reach, bit by bit.
  u32 least = 0;
  for (int bit = 30; bit >= 0; bit--) {
    u32 next = least | 1u << bit, reach = 0;
    for (u32 at = threadIdx.x; at < numel; at += THREADS)
      reach += magnitude(values[first + (u64)(at / width) * cols + at % width]) >= next;
    if (block_sum(reach, parts) >= wanted) least = next;
  }

  // Each thread has a run of positions, so that runs in order are positions in order.
  u32 run = (numel + THREADS - 1) / THREADS, from = least_of(threadIdx.x * run, numel), to = least_of(from + run, numel);
  u32 above = 0, ties = 0;
  for (u32 at = from; at < to; at++) {
    u32 own = magnitude(values[first + (u64)(at / width) * cols + at % width]);
    above += own > least;
    ties += own == least;
  }
  above_before[threadIdx.x] = above;
  ties_before[threadIdx.x] = ties;
  u32 all_above = block_sum(above, parts);
  u32 room = wanted - all_above;
  above = 0;
  ties = 0;
  for (u32 other = 0; other < threadIdx.x; other++) {
    above += above_before[other];
    ties += ties_before[other];
  }
  for (u32 at = from; at < to; at++) {
    u64 flat = first + (u64)(at / width) * cols + at % width;
    float value = values[flat];
    u32 own = magnitude(value);
    bool tie = own == least && ties < room;
    if (own > least || tie) {
      u64 to_place = place + above + least_of(ties, room);
      indices[to_place] = (u32)flat;
      chosen[to_place] = value;
    }
    above += own > least;
    ties += own == least;
  }
}

#define LANES 64
#define MAX_LEVELS 16

INLINE double wide(float x) { return (double)x; }

// quantise.rs: sum, of one block of 64 threads.
INLINE double lane_sum(double own, double* lanes) {
  // What was read from the last sum is read.
  __syncthreads();
  lanes[threadIdx.x] = own;
  __syncthreads();
  double sum = 0.0;
  for (u32 lane = 0; lane < LANES; lane++) sum = __dadd_rn(sum, lanes[lane]);
  return sum;
}

// quantise.rs: bfloat16.
INLINE u32 bfloat16(float value) {
  u32 sign = bits(value) & 0x80000000u, magnitude = bits(value) & 0x7fffffffu;
  u32 rounded = least_of((magnitude + 0x7fffu + (magnitude >> 16 & 1)) & 0xffff0000u, 0x7f7f0000u);
  return rounded == 0 ? 0 : sign | rounded;
}

// quantise.rs: quantise, of the kept values of one tensor, by one block of 64 threads.
KERNEL quantise(u32 count, u32 code_bits, const float* values, u8* codes, u32* levels) {
  __shared__ double lanes[LANES];
  __shared__ double sums[MAX_LEVELS];
  __shared__ u32 counts[MAX_LEVELS];
  __shared__ u32 merged[MAX_LEVELS];
  u32 thread = threadIdx.x;
  double n = __uint2double_rn(count), one = 1.0, own = 0.0;
  for (u32 at = thread; at < count; at += LANES) own = __dadd_rn(own, wide(values[at]));
  double shift = __ddiv_rn(lane_sum(own, lanes), count > 1 ? n : one);
  own = 0.0;
  for (u32 at = thread; at < count; at += LANES) {
    double off = __dsub_rn(wide(values[at]), shift);
    own = __dadd_rn(own, __dmul_rn(off, off));
  }
  double squares = lane_sum(own, lanes);
  u32 half = 1u << (code_bits - 1);
  double freedom = count > 2 ? __dsub_rn(n, one) : one;
  double step = __ddiv_rn(__dmul_rn(6.0, __dsqrt_rn(__ddiv_rn(squares, freedom))), __uint2double_rn(2 * half));
  double middle = __dadd_rn(__uint2double_rn(half), 0.5), last = __uint2double_rn(2 * half - 1);
  for (u32 at = thread; at < count; at += LANES) {
    u32 code = half;
    if (step > 0.0 && code_bits == 1) {
      code = wide(values[at]) < shift ? 0 : 1;
    } else if (step > 0.0) {
      double place = __dadd_rn(__ddiv_rn(__dsub_rn(wide(values[at]), shift), step), middle);
      place = place < 0.0 ? 0.0 : place;
      place = place > last ? last : place;
      code = (u32)__double2ll_rz(place);
    }
    codes[at] = (u8)code;
  }
  __syncthreads();
  // A code's values are summed in their order, by one thread.
  if (thread < MAX_LEVELS) {
    double sum = 0.0;
    u32 times = 0;
    for (u32 at = 0; at < count; at++) {
      if (codes[at] == thread) {
        sum = __dadd_rn(sum, wide(values[at]));
        times++;
      }
    }
    sums[thread] = sum;
    counts[thread] = times;
  }
  __syncthreads();
  if (thread == 0) {
    u32 lower = MAX_LEVELS, lower_level = 0;
    for (u32 code = 0; code < MAX_LEVELS; code++) {
      merged[code] = code;
      levels[code] = 0;
      if (counts[code] == 0) continue;
      u32 level = bfloat16(__double2float_rn(__ddiv_rn(sums[code], __uint2double_rn(counts[code]))));
      if (lower < MAX_LEVELS && lower_level == level) {
        merged[code] = lower;
      } else {
        levels[code] = level;
        lower = code;
        lower_level = level;
      }
    }
  }
  __syncthreads();
  for (u32 at = thread; at < count; at += LANES) codes[at] = (u8)merged[codes[at]];
}

// Codes of code_bits (1, 2 or 4) in bytes, the first in the lowest bits; what is left of the last byte is 0. One thread a byte.
KERNEL pack(u32 count, u32 code_bits, const u8* codes, u8* packed) {
  u64 at = thread_index();
  u32 each = 8 / code_bits;
  u64 first = at * each;
  if (first >= count) return;
  u32 byte = 0;
  for (u32 i = 0; i < each; i++) {
    if (first + i < count) byte |= (u32)codes[first + i] << (i * code_bits);
  }
  packed[at] = (u8)byte;
}
