//! Copies blocks into the order in which the micro-kernels read them.

use super::Matrix;
use crate::Isa;

/// Steps `step .. step + depth` of all rows of a, in strips of `tile_rows` rows: step by step, each step the strip's rows.
pub(super) fn a(a: &Matrix<'_>, step: usize, depth: usize, tile_rows: usize, packed: &mut [f32]) {
    for first in (0..a.rows).step_by(tile_rows) {
        let height = tile_rows.min(a.rows - first);
        let strip = &mut packed[first * depth..][..height * depth];
        if a.col_stride == 1 && height.is_multiple_of(GROUP) {
            for r in (0..height).step_by(GROUP) {
                let rows = [0, 1, 2, 3].map(|i| &a.data[(first + r + i) * a.row_stride + step..][..depth]);
                interleave(rows, &mut strip[r..], height);
            }
            continue;
        }
        for r in 0..height {
            let start = (first + r) * a.row_stride + step * a.col_stride;
            let line = a.data[start..].iter().step_by(a.col_stride);
            for (place, value) in strip[r..].iter_mut().step_by(height).zip(line) {
                *place = *value;
            }
        }
    }
}

/// Rows that are packed together.
const GROUP: usize = 4;

/// Writes the rows' values step by step, `stride` apart.
fn interleave([a, b, c, d]: [&[f32]; GROUP], packed: &mut [f32], stride: usize) {
    let steps = a.iter().zip(b).zip(c).zip(d);
    for (place, (((a, b), c), d)) in packed.chunks_mut(stride).zip(steps) {
        place[..GROUP].copy_from_slice(&[*a, *b, *c, *d]);
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
    type Square = unsafe fn(*const f32, usize, *mut f32, usize);
    let (side, square): (usize, Square) = match isa.path() {
        Path::Portable | Path::Sse2 => return 0,
        Path::Avx2 => (8, x86::transpose_8x8),
        Path::Avx512 => (16, x86::transpose_16x16),
    };
    if !width.is_multiple_of(side) {
        return 0;
    }
    let whole = depth - depth % side;
    for p in (0..whole).step_by(side) {
        for j in (0..width).step_by(side) {
            let target = strip[p * width + j..].as_mut_ptr();
            // SAFETY: both squares lie inside what the caller promised, and the path proves the instruction set.
            unsafe { square(source.add(j * stride + p), stride, target, width) };
        }
    }
    whole
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn transpose_strip(_: Isa, _: *const f32, _: usize, _: usize, _: usize, _: &mut [f32]) -> usize {
    0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Weights come from memory, from more places at once than processors foresee: values asked for ahead of their turn.
    const AHEAD: usize = 64;

    /// # Safety
    /// Eight rows of eight values can be read at `source` and written at `target`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose_8x8(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
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

    /// # Safety
    /// Sixteen rows of sixteen values can be read at `source` and written at `target`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose_16x16(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
        // SAFETY: the caller's promise; a prefetch may be of any address.
        let row = |i: usize| unsafe {
            _mm_prefetch::<_MM_HINT_T0>(source.wrapping_add(i * source_stride + AHEAD).cast());
            _mm512_loadu_ps(source.add(i * source_stride))
        };
        // In each quarter of a vector: four rows' values of one column.
        let mut quads = [_mm512_setzero_ps(); 16];
        for group in 0..4 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| row(group * 4 + i));
            let (low, high) = (
                (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)),
                (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)),
            );
            quads[group] = _mm512_shuffle_ps::<0x44>(low.0, low.1);
            quads[4 + group] = _mm512_shuffle_ps::<0xee>(low.0, low.1);
            quads[8 + group] = _mm512_shuffle_ps::<0x44>(high.0, high.1);
            quads[12 + group] = _mm512_shuffle_ps::<0xee>(high.0, high.1);
        }
        // Column `of` of each quarter, from all four groups of rows.
        for of in 0..4 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|group| quads[of * 4 + group]);
            let (even, odd) = (
                (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)),
                (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)),
            );
            let columns = [
                _mm512_shuffle_f32x4::<0x88>(even.0, even.1),
                _mm512_shuffle_f32x4::<0x88>(odd.0, odd.1),
                _mm512_shuffle_f32x4::<0xdd>(even.0, even.1),
                _mm512_shuffle_f32x4::<0xdd>(odd.0, odd.1),
            ];
            for (quarter, column) in columns.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { _mm512_storeu_ps(target.add((quarter * 4 + of) * target_stride), column) };
            }
        }
    }
}
