//! The judge's matrix products on one thread, on every instruction set of this machine.
//!
//! `cargo bench --bench gemm`. The items counted are floating-point operations, two a step.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use l402t_kernels::Isa;
use l402t_kernels::gemm::{GemmScratch, Matrix, MatrixMut, gemm};

fn main() {
    divan::main();
}

fn isas() -> Vec<Isa> {
    Isa::available()
}

fn product(bencher: Bencher<'_, '_>, isa: Isa, (m, n, k): (usize, usize, usize)) {
    let (a, b, mut c) = (vec![0.5; m * k], vec![0.25; n * k], vec![0.0; m * n]);
    let mut scratch = GemmScratch::default();
    bencher.counter(ItemsCount::new(2 * m * n * k)).bench_local(|| {
        let (left, right) = (Matrix::rows(&a, m, k, k), Matrix::transposed(&b, k, n, k));
        gemm(isa, &mut scratch, left, right, &mut MatrixMut::rows(black_box(&mut c), m, n, n));
    });
}

#[divan::bench(args = isas(), sample_count = 20)]
fn gemm_512x384x384(bencher: Bencher<'_, '_>, isa: Isa) {
    product(bencher, isa, (512, 384, 384));
}

#[divan::bench(args = isas(), sample_count = 20)]
fn gemm_512x1024x384(bencher: Bencher<'_, '_>, isa: Isa) {
    product(bencher, isa, (512, 1024, 384));
}

#[divan::bench(args = isas(), sample_count = 10)]
fn gemm_512x768x2048(bencher: Bencher<'_, '_>, isa: Isa) {
    product(bencher, isa, (512, 768, 2048));
}
