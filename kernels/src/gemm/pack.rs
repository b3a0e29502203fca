//! Copies blocks into the order in which the micro-kernels read them.

use super::Matrix;
use crate::Isa;

/// Rows `row .. row + rows` and steps `step .. step + depth` of a, in strips of `tile_rows` rows: step by step, each step the
/// strip's rows.
pub(super) fn a(
    a: &Matrix<'_>,
    row: usize,
    step: usize,
    rows: usize,
    depth: usize,
    tile_rows: usize,
    packed: &mut [f32],
) {
    for first in (0..rows).step_by(tile_rows) {
        let height = tile_rows.min(rows - first);
        let strip = &mut packed[first * depth..][..height * depth];
        for r in 0..height {
            let start = (row + first + r) * a.row_stride + step * a.col_stride;
            let line = a.data[start..].iter().step_by(a.col_stride);
            for (place, value) in strip[r..].iter_mut().step_by(height).zip(line) {
                *place = *value;
            }
        }
    }
}

/// Steps `step .. step + depth` and columns `col .. col + cols` of b, in strips of `tile_cols` columns: step by step, each
/// step the strip's columns; the last strip is padded with zeros.
///
/// # Safety
/// The block lies inside b; `packed` has room for the padded strips.
#[allow(clippy::too_many_arguments, reason = "a block's place and size")]
pub(super) unsafe fn b(
    isa: Isa,
    b: &Matrix<'_>,
    step: usize,
    col: usize,
    depth: usize,
    cols: usize,
    tile_cols: usize,
    packed: &mut [f32],
) {
    for first in (0..cols).step_by(tile_cols) {
        let width = tile_cols.min(cols - first);
        let strip = &mut packed[first * depth..][..tile_cols * depth];
        let source = b.from(step, col + first);
        let contiguous_steps = b.row_stride == 1;
        let done = if contiguous_steps && width == tile_cols {
            // SAFETY: the caller's promise: `tile_cols` columns of `depth` steps lie inside b.
            unsafe { transpose_strip(isa, source, b.col_stride, depth, tile_cols, strip) }
        } else {
            0
        };
        for p in done..depth {
            let line = &mut strip[p * tile_cols..][..tile_cols];
            let start = (step + p) * b.row_stride + (col + first) * b.col_stride;
            if b.col_stride == 1 {
                line[..width].copy_from_slice(&b.data[start..start + width]);
            } else {
                for (j, place) in line[..width].iter_mut().enumerate() {
                    *place = b.data[start + j * b.col_stride];
                }
            }
            line[width..].fill(0.0);
        }
    }
}

/// Transposes whole squares of 16 (AVX-512) or 8 (AVX2) and says how many steps it did.
///
/// # Safety
/// `width` columns of `depth` contiguous values, `stride` apart, can be read from `source`; `strip` holds depth · width.
#[cfg(target_arch = "x86_64")]
unsafe fn transpose_strip(
    isa: Isa,
    source: *const f32,
    stride: usize,
    depth: usize,
    width: usize,
    strip: &mut [f32],
) -> usize {
    use crate::isa::Path;
    let side = match isa.path() {
        Path::Portable | Path::Sse2 => return 0,
        Path::Avx2 | Path::Avx512 => 8,
    };
    let whole = depth - depth % side;
    for p in (0..whole).step_by(side) {
        for j in (0..width - width % side).step_by(side) {
            let target = strip[p * width + j..].as_mut_ptr();
            // SAFETY: both squares lie inside what the caller promised, and the path proves AVX2.
            unsafe { transpose_8x8(source.add(j * stride + p), stride, target, width) };
        }
    }
    if width.is_multiple_of(side) { whole } else { 0 }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn transpose_strip(_: Isa, _: *const f32, _: usize, _: usize, _: usize, _: &mut [f32]) -> usize {
    0
}

/// # Safety
/// Eight rows of eight values can be read at `source` and written at `target`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_8x8(source: *const f32, source_stride: usize, target: *mut f32, target_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    let row = |i: usize| unsafe { _mm256_loadu_ps(source.add(i * source_stride)) };
    let (r0, r1, r2, r3, r4, r5, r6, r7) = (row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7));
    let pairs = [
        (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1)),
        (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3)),
        (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5)),
        (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7)),
    ];
    let quads = |x: (__m256, __m256), y: (__m256, __m256)| {
        [
            _mm256_shuffle_ps::<0x44>(x.0, y.0),
            _mm256_shuffle_ps::<0xee>(x.0, y.0),
            _mm256_shuffle_ps::<0x44>(x.1, y.1),
            _mm256_shuffle_ps::<0xee>(x.1, y.1),
        ]
    };
    let (low, high) = (quads(pairs[0], pairs[1]), quads(pairs[2], pairs[3]));
    for i in 0..4 {
        let upper = _mm256_permute2f128_ps::<0x20>(low[i], high[i]);
        let lower = _mm256_permute2f128_ps::<0x31>(low[i], high[i]);
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(target.add(i * target_stride), upper);
            _mm256_storeu_ps(target.add((i + 4) * target_stride), lower);
        }
    }
}
