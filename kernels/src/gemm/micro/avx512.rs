//! AVX-512: eight rows of three vectors.

use std::arch::x86_64::*;

const VECTORS: usize = 3;
const LANES: usize = 16;
/// Columns of a tile.
pub(super) const COLS: usize = VECTORS * LANES;

/// # Safety
/// See [`super::MicroKernel`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile<const ROWS: usize>(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    first: bool,
) {
    // SAFETY: the caller's promise covers every address below.
    unsafe {
        let place = |r: usize, v: usize| c.add(r * stride + v * LANES);
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        if !first {
            for (r, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(place(r, v));
                }
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..depth {
            let right = [0, 1, 2].map(|v| _mm512_loadu_ps(b.add(v * LANES)));
            for (r, row) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_ps(*a.add(r));
                for (sum, right) in row.iter_mut().zip(right) {
                    *sum = _mm512_fmadd_ps(left, right, *sum);
                }
            }
            a = a.add(ROWS);
            b = b.add(COLS);
        }
        for (r, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                _mm512_storeu_ps(place(r, v), *sum);
            }
        }
    }
}
