//! The sparse update: choosing what is kept of a pseudo-gradient, writing it, reading it.
//!
//! `cargo bench --bench codec`. The bytes counted are those of the fp32 pseudo-gradient, on one core.

mod model;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use l402t::protocol::amount::Ppm;
use l402t::protocol::codec::{self, TensorShape, Update};
use l402t::train::compress::Compressor;

fn main() {
    divan::main();
}

fn shapes() -> Vec<TensorShape> {
    model::checkpoint(1).layout.shapes()
}

fn compressor() -> Compressor {
    let decay = Ppm::new(950_000).expect("at most one");
    Compressor::new(model::CODEC, decay, shapes()).expect("a codec for this model")
}

fn update() -> Update {
    compressor().compress(model::pseudo_gradient(1)).expect("finite").update
}

fn fp32_bytes() -> BytesCount {
    BytesCount::of_many::<f32>(model::checkpoint(1).layout.numel)
}

#[divan::bench]
fn compress(bencher: Bencher) {
    let (compressor, pseudo_gradient) = (compressor(), model::pseudo_gradient(1));
    let bencher = bencher.counter(fp32_bytes()).with_inputs(|| pseudo_gradient.clone());
    bencher.bench_values(|values| compressor.compress(black_box(values)));
}

#[divan::bench]
fn encode(bencher: Bencher) {
    let (shapes, update) = (shapes(), update());
    bencher.counter(fp32_bytes()).bench(|| codec::encode(&model::CODEC, &shapes, black_box(&update)));
}

#[divan::bench]
fn compress_and_encode(bencher: Bencher) {
    let (compressor, shapes, pseudo_gradient) = (compressor(), shapes(), model::pseudo_gradient(1));
    let bencher = bencher.counter(fp32_bytes()).with_inputs(|| pseudo_gradient.clone());
    bencher.bench_values(|values| {
        let compressed = compressor.compress(black_box(values)).expect("finite");
        (codec::encode(&model::CODEC, &shapes, &compressed.update), compressed.next)
    });
}

#[divan::bench]
fn decode(bencher: Bencher) {
    let shapes = shapes();
    let bytes = codec::encode(&model::CODEC, &shapes, &update()).expect("an update of this model");
    bencher.counter(fp32_bytes()).bench(|| codec::decode(&model::CODEC, &shapes, black_box(&bytes)));
}
