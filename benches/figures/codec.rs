//! The codec: bytes of real updates, fp32 read and written a second on one core, and the memory that it takes.

use l402t::model::{Checkpoint, LlamaConfig};
use l402t::protocol::amount::Ppm;
use l402t::protocol::codec::{self, TensorShape, Update};
use l402t::protocol::manifest::CodecParams;
use l402t::train::compress::Compressor;
use l402t_kernels::outer::accumulate_sparse;

use crate::memory::{peak_bytes, peak_bytes_of};
use crate::report::{Measured, Report, fastest_in_turns};

const PARAMS: CodecParams = CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 };
/// A contribution to the last round of `cargo run --release --example local_rounds -- rounds=16 peers=2 windows=8 save=FOLDER`:
/// the later the round, the less the places repeat and the lower the ratio.
const LATE_UPDATE: &[u8] = include_bytes!("data/round-15.l4su");
const LATE_MODEL: &[u8] = include_bytes!("../../examples/models/tiny.json");
/// The published wire: a 12-bit index and a 2-bit value.
const PUBLISHED_RATIO: f64 = 32.0 * 4096.0 / (64.0 * 14.0);
const ROUNDS: usize = 15;
const GB: f64 = 1e9;
/// What a child is to measure.
pub(crate) const ENCODE: &str = "codec.encode";
pub(crate) const DECODE: &str = "codec.decode";

/// 25 million values, about as many in 1-D tensors as a Llama has.
fn shapes() -> Vec<TensorShape> {
    let block = [
        TensorShape::Vector { len: 512 },
        TensorShape::Matrix { rows: 1_408, cols: 512 },
        TensorShape::Matrix { rows: 512, cols: 1_408 },
        TensorShape::Matrix { rows: 1_408, cols: 512 },
        TensorShape::Matrix { rows: 1_024, cols: 1_024 },
    ];
    let mut shapes = vec![TensorShape::Matrix { rows: 12_288, cols: 512 }];
    shapes.extend((0..6).flat_map(|_| block));
    shapes
}

fn numel(shapes: &[TensorShape]) -> usize {
    shapes.iter().map(|shape| shape.numel() as usize).sum()
}

/// About bell-shaped, which says nothing about the ratio and makes the places as unpredictable as they can be.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let parts = [state >> 48, state >> 32 & 0xffff, state >> 16 & 0xffff];
        parts.iter().map(|part| *part as f32 / 65_536.0 - 0.5).sum::<f32>() * 1e-3
    };
    (0..n).map(|_| draw()).collect()
}

pub(crate) fn measure(report: &mut Report) {
    report.figure("codec.ratio_fp32", "×", || {
        let shapes = Checkpoint::init(LlamaConfig::from_json(LATE_MODEL).ok()?, [0; 32]).layout.shapes();
        let update = codec::decode(&PARAMS, &shapes, LATE_UPDATE).ok()?;
        let bytes = codec::encode(&PARAMS, &shapes, &update).ok()?.len();
        Some(Measured { value: 4.0 * numel(&shapes) as f64 / bytes as f64, reference: Some(PUBLISHED_RATIO) })
    });
    let names = ["codec.encode", "codec.decode_accumulate", "codec.encode_memory", "codec.decode_memory"];
    if names.iter().any(|name| report.wants(name)) {
        speed(report);
    }
}

fn speed(report: &mut Report) {
    let shapes = shapes();
    let values = noise(numel(&shapes));
    let fp32_bytes = 4.0 * values.len() as f64;
    let decay = Ppm::new(950_000).expect("at most one");
    let mut compressor = Compressor::new(PARAMS, decay, shapes.clone()).expect("a codec for these shapes");
    let first = compressor.compress(values.clone()).expect("finite");
    compressor.accept(first.next).expect("its own");
    let encode = |values: Vec<f32>| {
        let compressed = compressor.compress(values).expect("finite");
        let bytes = codec::encode(&PARAMS, &shapes, &compressed.update).expect("its own update");
        (bytes, compressed.next)
    };
    let bytes = codec::encode(&PARAMS, &shapes, &first.update).expect("its own update");

    report.figure("codec.encode", "GB/s", || {
        // Each round uses up a pseudo-gradient: the copies are made before, so that none is measured.
        let mut copies: Vec<Vec<f32>> = (0..=ROUNDS).map(|_| values.clone()).collect();
        let [seconds] = fastest_in_turns(
            ROUNDS,
            [&mut || {
                let copy = copies.pop().expect("one a round");
                drop(encode(copy));
            }],
        );
        Some(Measured::alone(fp32_bytes / seconds / GB))
    });
    report.figure("codec.decode_accumulate", "GB/s", || {
        let (mut sums, mut counts) = (vec![0.0; values.len()], vec![0_u32; values.len()]);
        let [seconds] = fastest_in_turns(
            ROUNDS,
            [&mut || {
                let update = codec::decode(&PARAMS, &shapes, &bytes).expect("its own bytes");
                accumulate(&shapes, &update, &mut sums, &mut counts);
            }],
        );
        Some(Measured::alone(fp32_bytes / seconds / GB))
    });
    let percent = |peak: u64| Measured::alone(100.0 * peak as f64 / fp32_bytes);
    report.figure("codec.encode_memory", "% of fp32", || Some(percent(peak_bytes_of(&[ENCODE])?)));
    report.figure("codec.decode_memory", "% of fp32", || {
        let file = tempfile::NamedTempFile::new().ok()?;
        std::fs::write(file.path(), &bytes).ok()?;
        Some(percent(peak_bytes_of(&[DECODE, file.path().to_str()?])?))
    });
}

/// What compressing and encoding take beyond input and output: the pseudo-gradient, which becomes the error feedback, and
/// the payload.
pub(crate) fn encode_peak() -> Option<u64> {
    let shapes = shapes();
    let values = noise(numel(&shapes));
    let compressor = Compressor::new(PARAMS, Ppm::new(950_000)?, shapes.clone()).ok()?;
    let mut payload = Vec::new();
    let mut kept = None;
    let peak = peak_bytes(|| {
        let compressed = compressor.compress(values).expect("finite");
        payload = codec::encode(&PARAMS, &shapes, &compressed.update).expect("its own update");
        kept = Some(compressed.next);
    })?;
    Some(peak.saturating_sub(payload.len() as u64))
}

/// What decoding the payload in `file` and adding it to sums and counts take beyond these and the payload.
pub(crate) fn decode_peak(file: &str) -> Option<u64> {
    let shapes = shapes();
    let bytes = std::fs::read(file).ok()?;
    let (mut sums, mut counts) = (vec![0.5; numel(&shapes)], vec![1_u32; numel(&shapes)]);
    peak_bytes(|| {
        let update = codec::decode(&PARAMS, &shapes, &bytes).expect("its own bytes");
        accumulate(&shapes, &update, &mut sums, &mut counts);
    })
}

fn accumulate(shapes: &[TensorShape], update: &Update, mut sums: &mut [f32], mut counts: &mut [u32]) {
    let Update::Sparse(update) = update else { unreachable!("the codec measured is sparse") };
    for (shape, tensor) in shapes.iter().zip(&update.tensors) {
        let (own_sums, other_sums) = sums.split_at_mut(shape.numel() as usize);
        let (own_counts, other_counts) = counts.split_at_mut(own_sums.len());
        let levels = tensor.levels.map(f32::from_bits);
        accumulate_sparse(own_sums, own_counts, &levels, &tensor.indices, &tensor.codes);
        (sums, counts) = (other_sums, other_counts);
    }
}
