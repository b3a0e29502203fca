//! Register tiles: `rows × tile_cols` sums over packed strips of a and b.

use super::Blocking;
use crate::Isa;
use crate::fma::{Fma, Portable};
use crate::isa::Path;

/// `(depth, a, b, c, stride, first)`: c = (first ? +0 : c), then `depth` fused steps.
///
/// # Safety
/// The machine has the kernel's instruction set; a holds depth · rows values, b depth · tile_cols; c has `rows` rows of
/// `tile_cols` values, `stride` apart.
pub(super) type MicroKernel = unsafe fn(usize, *const f32, *const f32, *mut f32, usize, bool);
/// The kernel for r rows is at r − 1.
pub(super) type Kernels = [MicroKernel];

/// A path's kernels and block sizes.
pub(super) fn kernels(isa: Isa) -> (&'static Kernels, Blocking) {
    match isa.path() {
        Path::Portable => {
            const KERNELS: &Kernels = &[portable::<1>, portable::<2>, portable::<3>, portable::<4>];
            (KERNELS, Blocking { tile_cols: PORTABLE_COLS, depth: 256, rows: 64, cols: 512 })
        }
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => {
            use x86::avx2 as k;
            const KERNELS: &Kernels = &[k::<1>, k::<2>, k::<3>, k::<4>, k::<5>, k::<6>];
            (KERNELS, Blocking { tile_cols: 16, depth: 320, rows: 192, cols: 2048 })
        }
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => {
            use x86::avx512 as k;
            const KERNELS: &Kernels =
                &[k::<1>, k::<2>, k::<3>, k::<4>, k::<5>, k::<6>, k::<7>, k::<8>, k::<9>, k::<10>, k::<11>, k::<12>];
            (KERNELS, Blocking { tile_cols: 32, depth: 384, rows: 168, cols: 3072 })
        }
    }
}

const PORTABLE_COLS: usize = 8;

/// # Safety
/// See [`MicroKernel`].
unsafe fn portable<const ROWS: usize>(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    first: bool,
) {
    // SAFETY: the caller's promise.
    let (a, b) =
        unsafe { (std::slice::from_raw_parts(a, depth * ROWS), std::slice::from_raw_parts(b, depth * PORTABLE_COLS)) };
    // SAFETY: as above; a row is written through one slice at a time.
    let row = |r: usize| unsafe { std::slice::from_raw_parts_mut(c.add(r * stride), PORTABLE_COLS) };
    let mut sums = [[0.0; PORTABLE_COLS]; ROWS];
    if !first {
        for (r, sum) in sums.iter_mut().enumerate() {
            sum.copy_from_slice(row(r));
        }
    }
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(PORTABLE_COLS)) {
        for (sum, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sum.iter_mut().zip(b) {
                *sum = Portable::fma(*a, *b, *sum);
            }
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        row(r).copy_from_slice(sum);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// # Safety
    /// See [`super::MicroKernel`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2<const ROWS: usize>(
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

    /// # Safety
    /// See [`super::MicroKernel`].
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512<const ROWS: usize>(
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
}
