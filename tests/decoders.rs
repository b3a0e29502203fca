//! Decoders against saved bytes: golden vectors that must stay what they are, and hostile inputs that must be refused
//! for the reason in their file name.

use std::fs;
use std::path::{Path, PathBuf};

use l402t::protocol::aggregate::{Aggregate, AggregatedUpdate, BadAggregate, NOT_CLIPPED};
use l402t::protocol::codec::{
    DenseTensor, DenseUpdate, SparseTensor, SparseUpdate, TensorShape, Update, decode, encode, levels,
};
use l402t::protocol::ids::Blake3Hash;
use l402t::protocol::manifest::CodecParams;
use serde::Deserialize;

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// One case of tests/vectors/codec.json.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    tile: u32,
    k: u32,
    value_bits: u32,
    /// `[len]` or `[rows, cols]`.
    shapes: Vec<Vec<u32>>,
    tensors: Vec<Tensor>,
    bytes_hex: String,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Tensor {
    Sparse { levels_hex: Vec<String>, indices: Vec<u32>, codes: Vec<u8> },
    Dense { scales_hex: Vec<String>, codes_hex: String },
}

fn sparse(tensor: &Tensor) -> SparseTensor {
    let Tensor::Sparse { levels_hex, indices, codes } = tensor else { panic!("a dense tensor among sparse ones") };
    let bits: Vec<u32> = levels_hex.iter().map(|hex| u32::from_str_radix(hex, 16).expect("hex")).collect();
    SparseTensor { levels: levels(&bits), indices: indices.clone(), codes: codes.clone() }
}

fn dense(tensor: &Tensor) -> DenseTensor {
    let Tensor::Dense { scales_hex, codes_hex } = tensor else { panic!("a sparse tensor among dense ones") };
    let scales = scales_hex.iter().map(|hex| u16::from_str_radix(hex, 16).expect("hex")).collect();
    DenseTensor { scales, codes: hex::decode(codes_hex).expect("hex") }
}

impl Vector {
    fn shapes(&self) -> Vec<TensorShape> {
        self.shapes
            .iter()
            .map(|shape| match shape[..] {
                [len] => TensorShape::Vector { len },
                [rows, cols] => TensorShape::Matrix { rows, cols },
                _ => panic!("{}: a shape has one or two sides", self.name),
            })
            .collect()
    }

    fn update(&self) -> Update {
        match self.value_bits {
            8 => DenseUpdate { tile: self.tile, tensors: self.tensors.iter().map(dense).collect() }.into(),
            _ => SparseUpdate { tensors: self.tensors.iter().map(sparse).collect() }.into(),
        }
    }
}

#[test]
fn updates_keep_their_bytes() {
    let json = fs::read_to_string(tests_dir().join("vectors/codec.json")).expect("the vectors");
    let vectors: Vec<Vector> = serde_json::from_str(&json).expect("valid vectors");
    for bits in [1, 2, 4, 8] {
        assert!(vectors.iter().any(|vector| vector.value_bits == bits), "no vector has values of {bits} bits");
    }
    for vector in vectors {
        let params = CodecParams { version: 2, tile: vector.tile, k: vector.k, value_bits: vector.value_bits };
        let bytes = encode(&params, &vector.shapes(), &vector.update()).expect("a valid update");
        assert_eq!(hex::encode(&bytes), vector.bytes_hex, "{}", vector.name);
        assert_eq!(decode(&params, &vector.shapes(), &bytes), Ok(vector.update()), "{}", vector.name);
    }
}

/// The model that the corpora were made for.
const CORPUS_SHAPES: [TensorShape; 3] = [
    TensorShape::Matrix { rows: 70, cols: 66 },
    TensorShape::Vector { len: 100 },
    TensorShape::Matrix { rows: 64, cols: 64 },
];

const SPARSE: CodecParams = CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 };

/// Saved bytes for one codec.
struct Corpus {
    folder: &'static str,
    params: CodecParams,
    /// What decoding says of at least one file.
    outcomes: &'static [&'static str],
    /// Every so many bytes are changed.
    stride: usize,
}

const CORPORA: [Corpus; 2] = [
    Corpus {
        folder: "corpus/codec",
        params: SPARSE,
        outcomes: &[
            "ok",
            "bad_magic",
            "unknown_version",
            "truncated",
            "trailing_bytes",
            "not_canonical",
            "level_not_finite",
            "level_negative_zero",
            "levels_not_ascending",
            "unused_level",
        ],
        stride: 1,
    },
    Corpus {
        folder: "corpus/codec-dense",
        params: CodecParams { version: 2, tile: 16, k: 256, value_bits: 8 },
        outcomes: &[
            "ok",
            "bad_magic",
            "unknown_version",
            "truncated",
            "trailing_bytes",
            "scale_out_of_range",
            "code_out_of_range",
            "tile_not_scaled",
        ],
        // One byte is like another in all but the headers.
        stride: 41,
    },
];

/// The files of a corpus, by their names.
fn saved(folder: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
    fs::read_dir(tests_dir().join(folder)).expect("the corpus").map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        (name, fs::read(&path).expect("a file"))
    })
}

/// Shows `check` the prefix before every `stride`th byte, and that byte changed.
fn mutate(mut bytes: Vec<u8>, stride: usize, check: impl Fn(&[u8])) {
    for at in (0..bytes.len()).step_by(stride) {
        check(&bytes[..at]);
        for change in [1, 0x80, 0xff] {
            bytes[at] ^= change;
            check(&bytes);
            bytes[at] ^= change;
        }
    }
}

/// File names are `<what decoding says>.<anything>.bin`.
#[test]
fn saved_updates_are_judged_as_their_names_say() {
    for corpus in &CORPORA {
        let mut seen = Vec::new();
        for (name, bytes) in saved(corpus.folder) {
            let expected = name.split('.').next().expect("a first part").to_owned();
            match decode(&corpus.params, &CORPUS_SHAPES, &bytes) {
                Ok(update) => {
                    assert_eq!(expected, "ok", "{name}");
                    assert_eq!(encode(&corpus.params, &CORPUS_SHAPES, &update).as_ref(), Ok(&bytes), "{name}");
                }
                Err(error) => assert_eq!(expected, error.code(), "{name}"),
            }
            seen.push(expected);
        }
        for outcome in corpus.outcomes {
            assert!(seen.iter().any(|name| name == outcome), "{} has no {outcome}", corpus.folder);
        }
    }
}

/// Prefixes and one-byte changes of every saved update: an error, or another canonical update.
#[test]
fn mutated_updates_never_panic_and_stay_canonical() {
    for corpus in &CORPORA {
        let canonical = |bytes: &[u8]| {
            if let Ok(update) = decode(&corpus.params, &CORPUS_SHAPES, bytes) {
                assert_eq!(encode(&corpus.params, &CORPUS_SHAPES, &update).as_deref(), Ok(bytes));
            }
        };
        saved(corpus.folder).for_each(|(_, bytes)| mutate(bytes, corpus.stride, canonical));
    }
}

/// The most updates of the corpus' rounds.
const CORPUS_UPDATES: u32 = 8;

fn decode_aggregate(bytes: &[u8]) -> Result<Aggregate, BadAggregate> {
    Aggregate::from_bytes(&SPARSE, &CORPUS_SHAPES, CORPUS_UPDATES, bytes)
}

/// The saved updates of tests/corpus/codec, each with one tensor clipped.
fn three_updates() -> Aggregate {
    let update = |(name, clipped): (&str, u32)| {
        let bytes = fs::read(tests_dir().join(format!("corpus/codec/ok.{name}.bin"))).expect("a file");
        let factor = |tensor| if tensor == clipped { 0x3f00_0000 + 99 * clipped } else { NOT_CLIPPED };
        let update = decode(&SPARSE, &CORPUS_SHAPES, &bytes).expect("a valid update");
        AggregatedUpdate { clip: (0..3).map(factor).collect(), update }
    };
    let updates = ["noise", "constant", "zeros"].into_iter().zip(0..).map(update).collect();
    Aggregate { from: Blake3Hash::of(b"from"), to: Blake3Hash::of(b"to"), updates }
}

#[test]
fn aggregates_keep_their_bytes() {
    let three = three_updates();
    for (name, aggregate) in [("no-updates", Aggregate { updates: vec![], ..three.clone() }), ("three-updates", three)]
    {
        let saved = fs::read(tests_dir().join(format!("corpus/aggregate/ok.{name}.bin"))).expect("a file");
        let bytes = aggregate.to_bytes(&SPARSE, &CORPUS_SHAPES).expect("a valid aggregate");
        assert_eq!(hex::encode(bytes), hex::encode(&saved), "{name}");
        assert_eq!(decode_aggregate(&saved), Ok(aggregate), "{name}");
    }
}

/// File names are `<what decoding says>.<anything>.bin`; `update_…` is about the updates in it.
#[test]
fn saved_aggregates_are_judged_as_their_names_say() {
    let mut seen = Vec::new();
    for (name, bytes) in saved("corpus/aggregate") {
        let found = match decode_aggregate(&bytes) {
            Ok(_) => "ok".to_owned(),
            Err(BadAggregate::Magic) => "bad_magic".to_owned(),
            Err(BadAggregate::Version(_)) => "unknown_version".to_owned(),
            Err(BadAggregate::Truncated) => "truncated".to_owned(),
            Err(BadAggregate::Trailing) => "trailing_bytes".to_owned(),
            Err(BadAggregate::Updates { .. }) => "too_many_updates".to_owned(),
            Err(BadAggregate::NoSuchTensor) => "no_such_tensor".to_owned(),
            Err(BadAggregate::Factor(_)) => "bad_factor".to_owned(),
            Err(BadAggregate::Update(error)) => format!("update_{}", error.code()),
        };
        assert_eq!(name.split('.').next(), Some(found.as_str()), "{name}");
        seen.push(found);
    }
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() >= 12, "the corpus shows {seen:?} only");
}

/// Every prefix and every one-byte change of every saved aggregate: an error, or another canonical aggregate.
#[test]
fn mutated_aggregates_never_panic_and_stay_canonical() {
    let canonical = |bytes: &[u8]| {
        if let Ok(aggregate) = decode_aggregate(bytes) {
            let again = aggregate.to_bytes(&SPARSE, &CORPUS_SHAPES);
            assert_eq!(again.as_deref(), Ok(bytes));
        }
    };
    saved("corpus/aggregate").for_each(|(_, bytes)| mutate(bytes, 1, canonical));
}
