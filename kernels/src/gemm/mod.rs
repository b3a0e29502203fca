//! Matrix products: `c[i,j] = +0; for k in 0..K { c[i,j] = fma(a[i,k], b[k,j], c[i,j]) }`, exactly that on every path.
//!
//! Vectors run over i and j only. Blocks, packing and spilling the sum to memory between blocks of k can't change a bit.

mod micro;
mod pack;

use crate::Isa;
use crate::buffer::Buffer;
use micro::{Kernels, MicroKernel};

/// A matrix inside a slice.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// The length that a matrix of this shape needs; `None` where it overflows.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    let last_row = (rows - 1).checked_mul(row_stride)?;
    let last_col = (cols - 1).checked_mul(col_stride)?;
    last_row.checked_add(last_col)?.checked_add(1)
}

impl<'a> Matrix<'a> {
    /// Rows of `cols` values, `stride` apart. Panics where `data` is too short.
    pub fn rows(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        Self::checked(data, rows, cols, stride, 1)
    }

    /// The transpose of `cols` rows of `rows` values, `stride` apart: a linear layer's (out, in) weights seen as (in, out).
    /// Panics where `data` is too short.
    pub fn transposed(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        Self::checked(data, rows, cols, 1, stride)
    }

    fn checked(data: &'a [f32], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        let needed = extent(rows, cols, row_stride, col_stride);
        assert!(needed.is_some_and(|needed| needed <= data.len()), "a matrix reaches past its slice");
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// The part from (row, col) on. The caller stays inside the matrix.
    fn from(&self, row: usize, col: usize) -> *const f32 {
        debug_assert!(row < self.rows && col < self.cols);
        // SAFETY: `checked` has shown that every element's place, and so the first's of this part, is inside the slice.
        unsafe { self.data.as_ptr().add(row * self.row_stride + col * self.col_stride) }
    }
}

/// Where a product goes: rows of `cols` values, `stride` apart.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// Panics where `data` is too short or rows overlap.
    pub fn rows(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        let needed = extent(rows, cols, stride, 1);
        assert!(needed.is_some_and(|needed| needed <= data.len()), "a matrix reaches past its slice");
        assert!(stride >= cols, "rows overlap");
        Self { data, rows, cols, stride }
    }
}

/// Packing buffers, to be kept between calls. One a thread.
#[derive(Clone, Debug, Default)]
pub struct GemmScratch {
    a: Buffer,
    b: Buffer,
    tile: Buffer,
}

/// How a path cuts a product up.
#[derive(Clone, Copy)]
struct Blocking {
    /// Columns of a register tile.
    tile_cols: usize,
    /// Steps of k in a block: a strip of packed b stays in L1.
    depth: usize,
    /// Rows in a block, a multiple of a tile's: its part of packed a stays in L2.
    rows: usize,
    /// Columns in a block: packed b stays in L3.
    cols: usize,
}

/// c = a · b on this thread. Panics where the shapes don't agree.
pub fn gemm(isa: Isa, scratch: &mut GemmScratch, a: Matrix<'_>, b: Matrix<'_>, c: &mut MatrixMut<'_>) {
    assert!(a.cols == b.rows && c.rows == a.rows && c.cols == b.cols, "shapes of a product do not agree");
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if k == 0 {
        for row in 0..m {
            c.data[row * c.stride..][..n].fill(0.0);
        }
        return;
    }
    let (kernels, blocking) = micro::kernels(isa);
    let tile_rows = kernels.len();
    let Blocking { tile_cols, depth, rows, cols } = blocking;
    assert!(rows.is_multiple_of(tile_rows));
    // Blocks of equal depth, as far as that goes.
    let depth = k.div_ceil(k.div_ceil(depth));
    // All of a at once, because each block of columns reads it again.
    let packed_a = scratch.a.take(m * k);
    for step in (0..k).step_by(depth) {
        let block_depth = depth.min(k - step);
        pack::a(&a, step, block_depth, tile_rows, &mut packed_a[step * m..][..m * block_depth]);
    }
    for col in (0..n).step_by(cols) {
        let block_cols = cols.min(n - col);
        for step in (0..k).step_by(depth) {
            let block_depth = depth.min(k - step);
            let packed_b = scratch.b.take(block_cols.div_ceil(tile_cols) * tile_cols * block_depth);
            // SAFETY: the block lies inside b, and the buffer holds its strips, the last one padded.
            unsafe { pack::b(isa, &b, step, col, block_depth, block_cols, tile_cols, packed_b) };
            // A block starts with a whole strip: its rows are a multiple of a tile's.
            for row in (0..m).step_by(rows) {
                let block_rows = rows.min(m - row);
                let packed_a = &packed_a[step * m + row * block_depth..][..block_rows * block_depth];
                let block = Block { row, col, rows: block_rows, cols: block_cols, depth: block_depth };
                let tile = scratch.tile.take(tile_rows * tile_cols);
                multiply_block(kernels, tile_cols, block, (packed_a, packed_b), tile, c, step == 0);
            }
        }
    }
}

/// A block of c, and how many steps of k go into it now.
#[derive(Clone, Copy)]
struct Block {
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
    depth: usize,
}

fn multiply_block(
    kernels: &Kernels,
    tile_cols: usize,
    block: Block,
    (packed_a, packed_b): (&[f32], &[f32]),
    tile: &mut [f32],
    c: &mut MatrixMut<'_>,
    first: bool,
) {
    let depth = block.depth;
    for strip in 0..block.cols.div_ceil(tile_cols) {
        let col = strip * tile_cols;
        let width = tile_cols.min(block.cols - col);
        let b = &packed_b[strip * tile_cols * depth..][..tile_cols * depth];
        for row in (0..block.rows).step_by(kernels.len()) {
            let height = kernels.len().min(block.rows - row);
            let kernel: MicroKernel = kernels[height - 1];
            let a = &packed_a[row * depth..][..height * depth];
            let place = (block.row + row) * c.stride + block.col + col;
            if width == tile_cols {
                let target = &mut c.data[place..];
                debug_assert!(target.len() >= (height - 1) * c.stride + tile_cols);
                // SAFETY: the kernel belongs to an instruction set that the machine has; a and b hold `depth` steps of
                // `height` and `tile_cols` values; all `height` rows of `tile_cols` values lie inside c, because the block
                // does and MatrixMut was checked.
                unsafe { kernel(depth, a.as_ptr(), b.as_ptr(), target.as_mut_ptr(), c.stride, first) };
                continue;
            }
            // A part tile is computed aside: its padding must not be written into c.
            if !first {
                for r in 0..height {
                    tile[r * tile_cols..][..width].copy_from_slice(&c.data[place + r * c.stride..][..width]);
                }
            }
            // SAFETY: as above, with the tile's rows in place of c's.
            unsafe { kernel(depth, a.as_ptr(), b.as_ptr(), tile.as_mut_ptr(), tile_cols, first) };
            for r in 0..height {
                c.data[place + r * c.stride..][..width].copy_from_slice(&tile[r * tile_cols..][..width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fma::{Fma, Software};
    use crate::tests::{Rng, same_bits};

    fn definition(
        m: usize,
        n: usize,
        k: usize,
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Vec<f32> {
        let mut c = Vec::new();
        for i in 0..m {
            for j in 0..n {
                c.push((0..k).fold(0.0, |sum, p| Software::fma(a(i, p), b(p, j), sum)));
            }
        }
        c
    }

    #[test]
    fn every_path_gives_the_bits_of_the_definition() {
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE / 8.0, -0.0, f32::MAX];
        let shapes =
            [(1, 1, 1), (5, 7, 3), (13, 33, 70), (25, 65, 130), (30, 17, 600), (3, 40, 0), (200, 3, 5), (7, 2100, 2)];
        for (m, n, k) in shapes {
            for with_special in [false, true] {
                let mut rng = Rng(3);
                let (stride_a, stride_b, stride_c) = (k + 3, n.max(k) + 1, n + 2);
                let mut a: Vec<f32> = (0..m * stride_a).map(|_| rng.bell()).collect();
                let mut b: Vec<f32> = (0..n.max(k) * stride_b).map(|_| rng.bell()).collect();
                if with_special {
                    for value in special {
                        let (i, j) = (rng.next() as usize % a.len(), rng.next() as usize % b.len());
                        a[i] = value;
                        b[j] = value * 0.5;
                    }
                }
                for transposed in [false, true] {
                    let at = |p: usize, j: usize| if transposed { j * stride_b + p } else { p * stride_b + j };
                    let expected = definition(m, n, k, |i, p| a[i * stride_a + p], |p, j| b[at(p, j)]);
                    for isa in Isa::available() {
                        let mut c = vec![7.0; m * stride_c];
                        let left = Matrix::rows(&a, m, k, stride_a);
                        let right = if transposed {
                            Matrix::transposed(&b, k, n, stride_b)
                        } else {
                            Matrix::rows(&b, k, n, stride_b)
                        };
                        let mut scratch = GemmScratch::default();
                        gemm(isa, &mut scratch, left, right, &mut MatrixMut::rows(&mut c, m, n, stride_c));
                        for i in 0..m {
                            let found = &c[i * stride_c..][..n];
                            same_bits(found, &expected[i * n..][..n], &format!("{isa} {m}×{n}×{k} row {i}"));
                            assert_eq!(&c[i * stride_c + n..][..2], [7.0, 7.0], "wrote past a row");
                        }
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "reaches past its slice")]
    fn a_matrix_cannot_reach_past_its_slice() {
        Matrix::rows(&[0.0; 10], 3, 4, 4);
    }
}
