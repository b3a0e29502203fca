//! AVX2 with fma: six rows of two vectors.

use std::arch::x86_64::*;

/// # Safety
/// See [`super::MicroKernel`].
#[target_feature(enable = "avx2,fma")]
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
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        if !first {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = [_mm256_loadu_ps(c.add(r * stride)), _mm256_loadu_ps(c.add(r * stride + 8))];
            }
        }
        let (mut a, mut b) = (a, b);
        for _ in 0..depth {
            let (left, right) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = _mm256_set1_ps(*a.add(r));
                sum[0] = _mm256_fmadd_ps(value, left, sum[0]);
                sum[1] = _mm256_fmadd_ps(value, right, sum[1]);
            }
            a = a.add(ROWS);
            b = b.add(16);
        }
        for (r, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(c.add(r * stride), sum[0]);
            _mm256_storeu_ps(c.add(r * stride + 8), sum[1]);
        }
    }
}
