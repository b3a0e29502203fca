//! SSE2, which has no fma: products and sums in f64, each rounded to f32, and computed again where that is in doubt (see
//! [`crate::fma::quick`]).

use std::arch::x86_64::*;

use crate::fma::{Fma, Software};

/// Columns of a tile.
pub(super) const COLS: usize = 4;
/// Steps that are computed again together if one of them is in doubt.
const STEPS: usize = 16;

/// Four sums as f64 whose values are those of f32.
type Sum = [__m128d; 2];

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
    // SAFETY: the caller's promise covers every address below, and SSE2 is part of x86-64.
    unsafe {
        let mut sums = [[_mm_setzero_pd(); 2]; ROWS];
        if !first {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = widen(_mm_loadu_ps(c.add(r * stride)));
            }
        }
        for done in (0..depth).step_by(STEPS) {
            let steps = STEPS.min(depth - done);
            let before = sums;
            if quick_steps(steps, a.add(done * ROWS), b.add(done * COLS), &mut sums) {
                sums = before;
                slow_steps(steps, a.add(done * ROWS), b.add(done * COLS), &mut sums);
            }
        }
        for (r, sum) in sums.iter().enumerate() {
            _mm_storeu_ps(c.add(r * stride), narrow(*sum));
        }
    }
}

#[inline(always)]
fn widen(x: __m128) -> Sum {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { [_mm_cvtps_pd(x), _mm_cvtps_pd(_mm_movehl_ps(x, x))] }
}

#[inline(always)]
fn narrow(x: Sum) -> __m128 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_movelh_ps(_mm_cvtpd_ps(x[0]), _mm_cvtpd_ps(x[1])) }
}

/// Says whether any sum is doubtful.
///
/// # Safety
/// a holds steps · ROWS values, b steps · COLS.
#[inline(always)]
unsafe fn quick_steps<const ROWS: usize>(steps: usize, a: *const f32, b: *const f32, sums: &mut [Sum; ROWS]) -> bool {
    // SAFETY: the caller's promise covers every address, and SSE2 is part of x86-64.
    unsafe {
        let (lacking, halfway) = (_mm_set1_epi32((1 << 29) - 1), _mm_set1_epi32(1 << 28));
        let (magnitude, normal) = (_mm_set1_epi32(0x7fff_ffff), _mm_set1_epi32(0x0080_0001));
        let mut doubts = _mm_setzero_si128();
        for step in 0..steps {
            let right = widen(_mm_loadu_ps(b.add(step * COLS)));
            for (r, sum) in sums.iter_mut().enumerate() {
                let left = _mm_set1_pd(f64::from(*a.add(step * ROWS + r)));
                let exact = [0, 1].map(|half| _mm_add_pd(_mm_mul_pd(left, right[half]), sum[half]));
                let rounded = narrow(exact);
                let low = _mm_shuffle_ps::<0x88>(_mm_castpd_ps(exact[0]), _mm_castpd_ps(exact[1]));
                let between = _mm_cmpeq_epi32(_mm_and_si128(_mm_castps_si128(low), lacking), halfway);
                let tiny = _mm_cmplt_epi32(_mm_and_si128(_mm_castps_si128(rounded), magnitude), normal);
                doubts = _mm_or_si128(doubts, _mm_or_si128(between, tiny));
                *sum = widen(rounded);
            }
        }
        _mm_movemask_epi8(doubts) != 0
    }
}

/// # Safety
/// As for [`quick_steps`].
#[cold]
unsafe fn slow_steps<const ROWS: usize>(steps: usize, a: *const f32, b: *const f32, sums: &mut [Sum; ROWS]) {
    for (r, sum) in sums.iter_mut().enumerate() {
        let mut lanes = [0.0; COLS];
        // SAFETY: the array has room for four, and SSE2 is part of x86-64.
        unsafe { _mm_storeu_ps(lanes.as_mut_ptr(), narrow(*sum)) };
        for step in 0..steps {
            for (j, lane) in lanes.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let (left, right) = unsafe { (*a.add(step * ROWS + r), *b.add(step * COLS + j)) };
                *lane = Software::fma(left, right, *lane);
            }
        }
        // SAFETY: as above.
        *sum = widen(unsafe { _mm_loadu_ps(lanes.as_ptr()) });
    }
}
