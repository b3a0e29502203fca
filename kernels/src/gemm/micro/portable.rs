//! Plain Rust, in loops that compilers turn into whatever vectors the target has.

use crate::fma::{Fma, Software, quick};

/// Columns of a tile.
pub(super) const COLS: usize = 8;
/// Steps that are computed again together if the quick fma was in doubt about one of them.
const STEPS: usize = 16;

type Sums<const ROWS: usize> = [[f32; COLS]; ROWS];

/// # Safety
/// See [`super::MicroKernel`].
pub(super) unsafe fn tile<F: Fma, const ROWS: usize>(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    first: bool,
) {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (std::slice::from_raw_parts(a, depth * ROWS), std::slice::from_raw_parts(b, depth * COLS)) };
    // SAFETY: as above; a row is written through one slice at a time.
    let row = |r: usize| unsafe { std::slice::from_raw_parts_mut(c.add(r * stride), COLS) };
    let mut sums = [[0.0; COLS]; ROWS];
    if !first {
        for (r, sum) in sums.iter_mut().enumerate() {
            sum.copy_from_slice(row(r));
        }
    }
    if F::IN_HARDWARE {
        steps::<F, ROWS>(a, b, &mut sums);
    } else {
        for (a, b) in a.chunks(STEPS * ROWS).zip(b.chunks(STEPS * COLS)) {
            let before = sums;
            if quick_steps(a, b, &mut sums) {
                sums = before;
                steps::<Software, ROWS>(a, b, &mut sums);
            }
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        row(r).copy_from_slice(sum);
    }
}

#[inline(always)]
fn steps<F: Fma, const ROWS: usize>(a: &[f32], b: &[f32], sums: &mut Sums<ROWS>) {
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLS)) {
        for (sum, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sum.iter_mut().zip(b) {
                *sum = F::fma(*a, *b, *sum);
            }
        }
    }
}

/// Says whether any sum is doubtful.
#[inline(always)]
fn quick_steps<const ROWS: usize>(a: &[f32], b: &[f32], sums: &mut Sums<ROWS>) -> bool {
    let mut doubts = [0u32; COLS];
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLS)) {
        for (sum, a) in sums.iter_mut().zip(a) {
            for ((sum, b), doubts) in sum.iter_mut().zip(b).zip(&mut doubts) {
                let (result, doubtful) = quick(*a, *b, *sum);
                *sum = result;
                *doubts |= u32::from(doubtful);
            }
        }
    }
    doubts.iter().any(|doubts| *doubts != 0)
}
