//! AVX-512: twelve rows of two vectors.

use std::arch::x86_64::*;

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
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if !first {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = [_mm512_loadu_ps(c.add(r * stride)), _mm512_loadu_ps(c.add(r * stride + 16))];
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..depth {
            let (left, right) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*a.add(r));
                sum[0] = _mm512_fmadd_ps(value, left, sum[0]);
                sum[1] = _mm512_fmadd_ps(value, right, sum[1]);
            }
            a = a.add(ROWS);
            b = b.add(32);
        }
        for (r, sum) in sums.iter().enumerate() {
            _mm512_storeu_ps(c.add(r * stride), sum[0]);
            _mm512_storeu_ps(c.add(r * stride + 16), sum[1]);
        }
    }
}
