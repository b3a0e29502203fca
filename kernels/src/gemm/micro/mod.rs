//! Register tiles: `rows × tile_cols` sums over packed strips of a and b, one file an instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use super::Blocking;
use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::fma::Software;
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
        Path::Portable => plain::<Portable>(),
        // Compilers make SSE2 of the plain loops.
        #[cfg(target_arch = "x86_64")]
        Path::Sse2 => plain::<Software>(),
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => {
            use avx2::tile as k;
            const KERNELS: &Kernels = &[k::<1>, k::<2>, k::<3>, k::<4>, k::<5>, k::<6>];
            (KERNELS, Blocking { tile_cols: 16, depth: 320, rows: 516, cols: 192 })
        }
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => {
            use avx512::tile as k;
            const KERNELS: &Kernels = &[k::<1>, k::<2>, k::<3>, k::<4>, k::<5>, k::<6>, k::<7>, k::<8>];
            (KERNELS, Blocking { tile_cols: avx512::COLS, depth: 192, rows: 512, cols: 192 })
        }
        #[cfg(target_arch = "aarch64")]
        Path::Neon => {
            use neon::tile as k;
            const KERNELS: &Kernels = &[k::<1>, k::<2>, k::<3>, k::<4>, k::<5>, k::<6>, k::<7>, k::<8>];
            (KERNELS, Blocking { tile_cols: neon::COLS, depth: 256, rows: 512, cols: 192 })
        }
    }
}

fn plain<F: Fma + 'static>() -> (&'static Kernels, Blocking) {
    use portable::{COLS, tile as k};
    (&[k::<F, 1>, k::<F, 2>, k::<F, 3>, k::<F, 4>], Blocking { tile_cols: COLS, depth: 256, rows: 512, cols: 192 })
}
