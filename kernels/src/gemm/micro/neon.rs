//! NEON: eight rows of two vectors.

use std::arch::aarch64::*;

/// Columns of a tile.
pub(super) const COLS: usize = 8;

/// # Safety
/// See [`super::MicroKernel`].
pub(super) unsafe fn tile<const ROWS: usize>(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    first: bool,
) {
    // SAFETY: the caller's promise covers every address below, and NEON is part of this architecture.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 2]; ROWS];
        if !first {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = [vld1q_f32(c.add(r * stride)), vld1q_f32(c.add(r * stride + 4))];
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..depth {
            let (left, right) = (vld1q_f32(b), vld1q_f32(b.add(4)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = vdupq_n_f32(*a.add(r));
                sum[0] = vfmaq_f32(sum[0], value, left);
                sum[1] = vfmaq_f32(sum[1], value, right);
            }
            a = a.add(ROWS);
            b = b.add(COLS);
        }
        for (r, sum) in sums.iter().enumerate() {
            vst1q_f32(c.add(r * stride), sum[0]);
            vst1q_f32(c.add(r * stride + 4), sum[1]);
        }
    }
}
