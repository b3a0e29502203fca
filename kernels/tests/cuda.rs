//! The GPU's kernels: what their PTX may hold, and their results, interpreted and on a GPU, against the CPU's to the bit.

use std::num::NonZeroUsize;

use l402t_interpreter::Interpreter;
use l402t_kernels::attention::{AttentionScratch, AttentionShape, causal_attention};
use l402t_kernels::cuda::compress::{self, Tiled};
use l402t_kernels::cuda::ops::{self, AttentionLayer, Heads, Sparse};
use l402t_kernels::cuda::{Kernel, MODULES, Machine, Values};
use l402t_kernels::gemm::{GemmScratch, Matrix, MatrixMut, gemm};
use l402t_kernels::known_answers::SPECIAL;
use l402t_kernels::rope::{RopeScaling, RopeTable};
use l402t_kernels::tile::{Rectangle, feed_back, gather};
use l402t_kernels::topk::{Scratch, top_k};
use l402t_kernels::{Isa, Pool, outer, quantise, rows};

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f32 {
        ((self.next() >> 40) as i32 - (1 << 23)) as f32 / (1u32 << 22) as f32
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    /// Mostly ordinary values, and in places the ones that arithmetic goes wrong on.
    fn hostile(&mut self, len: usize) -> Vec<f32> {
        let mut values = self.floats(len);
        for special in SPECIAL {
            let place = self.next() as usize % len;
            values[place] = f32::from_bits(special);
        }
        values
    }

    /// Values and products of values that are subnormal.
    fn tiny(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float() * f32::from_bits(0x1f00_0000 + (self.next() as u32 % 0x400_0000))).collect()
    }
}

/// Equal bits; any NaN equals any NaN.
fn same<M: Machine>(found: &Values<M, f32>, machine: &M, expected: &[f32], what: &str) {
    let mut values = vec![0.0; expected.len()];
    found.read(machine, &mut values).expect("read");
    for (place, (f, e)) in values.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits() || f.is_nan() && e.is_nan(), "{what} at {place}: {f:e}, expected {e:e}");
    }
}

fn machine() -> Interpreter {
    Interpreter::new(&MODULES).expect("PTX that the interpreter knows")
}

fn on<M: Machine>(machine: &M, values: &[f32]) -> Values<M, f32> {
    Values::of(machine, values).expect("room")
}

fn here() -> Isa {
    Isa::best()
}

/// Every opcode of the modules.
fn opcodes() -> Vec<&'static str> {
    let statements = MODULES.iter().flat_map(|(_, ptx)| ptx.lines()).filter_map(|line| {
        let line = line.split("//").next()?.trim().strip_suffix(';')?;
        let line = if line.starts_with('@') { line.split_once(' ')?.1 } else { line };
        let opcode = line.trim().split([' ', '\t']).next()?;
        (!opcode.starts_with('.')).then_some(opcode)
    });
    statements.collect()
}

/// Opcodes that compute with floats and give the one correctly rounded, or an exact, result.
const FLOAT_OPCODES: [&str; 28] = [
    "add.rn.f32",
    "sub.rn.f32",
    "mul.rn.f32",
    "div.rn.f32",
    "sqrt.rn.f32",
    "fma.rn.f32",
    "add.rn.f64",
    "sub.rn.f64",
    "mul.rn.f64",
    "div.rn.f64",
    "rcp.rn.f64",
    "sqrt.rn.f64",
    "cvt.f64.f32",
    "cvt.rn.f32.f64",
    "cvt.rn.f32.u32",
    "cvt.rn.f64.s32",
    "cvt.rn.f64.s64",
    "cvt.rn.f64.u32",
    "cvt.rzi.s64.f64",
    "setp.lt.f32",
    "setp.gt.f32",
    "setp.lt.f64",
    "setp.gt.f64",
    "setp.ltu.f64",
    "setp.leu.f64",
    "setp.gtu.f64",
    "setp.geu.f64",
    "cvt.rni.s64.f64",
];

#[test]
fn the_ptx_holds_only_operations_whose_result_is_defined_to_the_bit() {
    let mut fused = 0;
    for opcode in opcodes() {
        let floating = [".f32", ".f64", ".f16", ".bf16", ".tf32", ".e4m3"].iter().any(|kind| opcode.contains(kind));
        let moves = ["mov.", "ld.", "st.", "selp."].iter().any(|word| opcode.starts_with(word));
        assert!(!floating || moves || FLOAT_OPCODES.contains(&opcode), "{opcode} rounds in ways of its own");
        for word in ["ftz", "approx", "sat", "atom", "red", "call", "mma", "wmma", "wgmma", "tcgen05"] {
            assert!(opcode.split('.').all(|part| part != word), "{opcode}");
        }
        fused += usize::from(opcode == "fma.rn.f32");
    }
    assert!(fused > 1000, "the products are fused where that is written");
    for (name, ptx) in MODULES {
        assert!(ptx.contains("\n.version 7.0\n.target sm_75\n"), "{name} asks for a newer driver or GPU");
    }
}

#[test]
fn every_kernel_of_the_program_is_in_its_module() {
    for kernel in Kernel::ALL {
        let (_, ptx) = MODULES.iter().find(|(name, _)| *name == kernel.module()).expect("a module");
        assert!(ptx.contains(&format!(".visible .entry {}(", kernel.name())), "{kernel:?}");
    }
    let entries = MODULES.iter().map(|(_, ptx)| ptx.matches(".visible .entry ").count()).sum::<usize>();
    assert_eq!(entries, Kernel::ALL.len());
}

/// Each comparison twice: interpreted, and where there is a GPU on that (`cargo test -p l402t-kernels --features cuda --test
/// cuda -- --ignored`).
macro_rules! compared {
    ($($name:ident),* $(,)?) => {
        mod interpreted {
            $(
                #[test]
                fn $name() {
                    super::$name(&super::machine());
                }
            )*
        }

        #[cfg(feature = "cuda")]
        mod on_the_gpu {
            $(
                #[test]
                #[ignore = "needs a GPU"]
                fn $name() {
                    super::$name(&l402t_kernels::cuda::Gpu::open(0, &super::MODULES).expect("a GPU"));
                }
            )*
        }
    };
}

compared! {
    products_have_the_bits_of_the_cpu,
    attention_has_the_bits_of_the_cpu,
    row_kernels_have_the_bits_of_the_cpu,
    losses_of_huge_and_of_overflowing_logits_are_those_of_the_cpu,
    positions_turn_heads_and_tokens_find_their_rows_as_on_the_cpu,
    updates_are_applied_and_averaged_as_on_the_cpu,
    the_largest_of_each_tile_are_those_of_the_cpu,
    codes_and_levels_are_those_of_the_cpu,
    error_feedback_has_the_bits_of_the_cpu,
}

fn products_have_the_bits_of_the_cpu<M: Machine>(machine: &M) {
    let mut rng = Rng(3);
    let shapes = [(1, 1, 1), (5, 7, 3), (3, 40, 8), (13, 33, 20), (130, 5, 12), (5, 131, 21), (9, 9, 130)];
    for (m, n, k) in shapes {
        for kind in 0..3 {
            let mut draw = |len| match kind {
                0 => rng.floats(len),
                1 => rng.hostile(len),
                _ => rng.tiny(len),
            };
            // The odd start takes the kernel that needs no alignment.
            for start in [0, 1] {
                let (x, weight) = (draw(m * k + start), draw(n * k + start));
                let mut expected = vec![7.0; m * n];
                gemm(
                    here(),
                    &mut GemmScratch::default(),
                    Matrix::rows(&x[start..], m, k, k),
                    Matrix::transposed(&weight[start..], k, n, k),
                    &mut MatrixMut::rows(&mut expected, m, n, n),
                );
                let (x, weight) = (on(machine, &x), on(machine, &weight));
                let mut y = on(machine, &vec![7.0; m * n]);
                let (x, weight) = (x.slice(start..start + m * k), weight.slice(start..start + n * k));
                ops::linear(machine, m, (n, k), x, weight, &mut y).expect("ran");
                same(&y, machine, &expected, &format!("{m}×{n}×{k}, kind {kind}, from {start}"));
            }
        }
    }
}

fn attention_has_the_bits_of_the_cpu<M: Machine>(machine: &M) {
    let mut rng = Rng(9);
    let shapes = [
        (1, 1, 1, 1, 2, None),
        (2, 37, 4, 2, 8, None),
        (1, 133, 2, 1, 6, None),
        (1, 37, 1, 1, 4, Some(1)),
        (1, 37, 1, 1, 4, Some(40)),
        (1, 259, 1, 1, 4, Some(70)),
        (1, 259, 1, 1, 4, Some(129)),
    ];
    for (windows, tokens, heads, key_value_heads, head_dim, reach) in shapes {
        let shape = AttentionShape { tokens, heads, key_value_heads, head_dim, window: reach };
        let (query, key_value) = (tokens * heads * head_dim, tokens * key_value_heads * head_dim);
        for special in [false, true] {
            let (q, k) = (rng.floats(windows * query), rng.floats(windows * key_value));
            let mut v = rng.floats(windows * key_value);
            if special {
                // Masked weights meet it too: +0 · ∞ is NaN.
                let place = v.len() / 3;
                v[place] = f32::INFINITY;
            }
            let mut expected = vec![0.0; windows * query];
            let (mut gemm, mut scratch) = (GemmScratch::default(), AttentionScratch::default());
            for window in 0..windows {
                let (q, out) = (&q[window * query..][..query], &mut expected[window * query..][..query]);
                let (k, v) = (&k[window * key_value..][..key_value], &v[window * key_value..][..key_value]);
                causal_attention(here(), &mut gemm, &mut scratch, shape, q, k, v, out);
            }
            let (q, k, v) = (on(machine, &q), on(machine, &k), on(machine, &v));
            let mut scores = Values::new(machine, windows * heads * tokens * tokens).expect("room");
            let mut out = Values::new(machine, windows * query).expect("room");
            let shape = Heads { windows, tokens, heads, key_value_heads, head_dim, reach };
            let layer = AttentionLayer { q: &q, k: &k, v: &v };
            ops::causal_attention(machine, shape, &layer, &mut scores, &mut out).expect("ran");
            same(&out, machine, &expected, &format!("attention over {tokens} tokens, reach {reach:?}"));
        }
    }
}

fn row_kernels_have_the_bits_of_the_cpu<M: Machine>(machine: &M) {
    let mut rng = Rng(11);
    for width in [1, 2, 7, 31, 32, 33, 64, 100, 257] {
        for kind in 0..4 {
            let rows = 11;
            let x: Vec<f32> = match kind {
                0 => rng.floats(rows * width),
                1 => rng.floats(rows * width).iter().map(|x| x * 30.0).collect(),
                2 => rng.tiny(rows * width),
                _ => rng.hostile(rows * width),
            };
            let other = rng.floats(rows * width);
            let what = format!("width {width}, kind {kind}");
            let (device, device_other) = (on(machine, &x), on(machine, &other));

            let mut expected = vec![0.0; rows * width];
            for (x, y) in x.chunks_exact(width).zip(expected.chunks_exact_mut(width)) {
                rows::rms_norm(here(), x, &other[..width], 1e-5, y);
            }
            let mut y = Values::new(machine, rows * width).expect("room");
            ops::rms_norm(machine, rows, 1e-5, &device, device_other.slice(0..width), &mut y).expect("ran");
            same(&y, machine, &expected, &format!("RMSNorm, {what}"));

            let mut expected = x.clone();
            rows::swiglu(here(), &mut expected, &other);
            let mut gate = on(machine, &x);
            ops::swiglu(machine, rows * width, &device_other, &mut gate).expect("ran");
            same(&gate, machine, &expected, &format!("SwiGLU, {what}"));

            let mut expected = x.clone();
            rows::add(here(), &mut expected, &other);
            let mut sum = on(machine, &x);
            ops::add(machine, rows * width, &device_other, &mut sum).expect("ran");
            same(&sum, machine, &expected, &format!("add, {what}"));

            let mut expected = x.clone();
            expected.chunks_exact_mut(width).for_each(|row| rows::add(here(), row, &other[..width]));
            let mut sum = on(machine, &x);
            ops::add_bias(machine, rows, device_other.slice(0..width), &mut sum).expect("ran");
            same(&sum, machine, &expected, &format!("bias, {what}"));

            let targets: Vec<u32> = (0..rows).map(|_| (rng.next() % (width as u64 + 1)) as u32).collect();
            let device_targets = Values::of(machine, &targets).expect("room");
            let mut losses = Values::new(machine, rows).expect("room");
            let targets_slice = device_targets.slice(0..rows);
            ops::cross_entropy(machine, rows, width, &device, targets_slice, &mut losses).expect("ran");
            let mut found = vec![0i64; rows];
            losses.read(machine, &mut found).expect("read");
            for ((x, target), found) in x.chunks_exact(width).zip(&targets).zip(&found) {
                let expected = rows::cross_entropy(here(), x, *target as usize);
                assert_eq!(*found, expected.unwrap_or(-1), "cross-entropy, {what}");
            }
        }
    }
}

fn losses_of_huge_and_of_overflowing_logits_are_those_of_the_cpu<M: Machine>(machine: &M) {
    let rows_of = [[0.5f32; 4], [1e30, 0.0, 0.0, 0.0], [3e5, -3e5, 1.0, 2.0], [f32::MAX, -f32::MAX, 0.0, 0.0]];
    let logits = on(machine, &rows_of.concat());
    let targets = Values::of(machine, &[1u32; 4]).expect("room");
    let mut losses = Values::new(machine, 4).expect("room");
    ops::cross_entropy(machine, 4, 4, &logits, targets.slice(0..4), &mut losses).expect("ran");
    let mut found = [0i64; 4];
    losses.read(machine, &mut found).expect("read");
    for (row, found) in rows_of.iter().zip(found) {
        assert_eq!(found, rows::cross_entropy(here(), row, 1).unwrap_or(-1), "{row:?}");
    }
    assert_eq!(found[0], 5_954_088_944);
}

fn positions_turn_heads_and_tokens_find_their_rows_as_on_the_cpu<M: Machine>(machine: &M) {
    let mut rng = Rng(5);
    let (windows, tokens, heads, head_dim) = (2, 9, 3, 6);
    let table =
        Pool::new(here(), NonZeroUsize::MIN).here(|| RopeTable::new(tokens, head_dim, 10_000.0, RopeScaling::None));
    let (cos, sin): (Vec<f32>, Vec<f32>) = (0..tokens).fold((vec![], vec![]), |mut all, position| {
        let (cos, sin) = table.at(position);
        all.0.extend(cos);
        all.1.extend(sin);
        all
    });
    let states = rng.hostile(windows * tokens * heads * head_dim);
    let mut expected = states.clone();
    for (row, state) in expected.chunks_exact_mut(heads * head_dim).enumerate() {
        let (cos, sin) = table.at(row % tokens);
        state.chunks_exact_mut(head_dim).for_each(|head| rows::rope(here(), head, cos, sin));
    }
    let (cos, sin) = (on(machine, &cos), on(machine, &sin));
    let mut device = on(machine, &states);
    let size = (heads * head_dim, head_dim);
    ops::rope(machine, windows * tokens, size, tokens, &cos, &sin, &mut device).expect("ran");
    same(&device, machine, &expected, "RoPE");

    let embedding = rng.hostile(13 * 5);
    let ids: Vec<u32> = (0..40).map(|_| (rng.next() % 13) as u32).collect();
    let expected: Vec<f32> = ids.iter().flat_map(|id| embedding[*id as usize * 5..][..5].to_vec()).collect();
    let embedding = on(machine, &embedding);
    let (mut tokens, mut x) = (Values::new(machine, 1).expect("room"), Values::new(machine, 200).expect("room"));
    ops::embed(machine, &ids, (13, 5), embedding.slice(0..65), &mut tokens, &mut x).expect("ran");
    same(&x, machine, &expected, "embedding");
}

fn updates_are_applied_and_averaged_as_on_the_cpu<M: Machine>(machine: &M) {
    let mut rng = Rng(5);
    let len = 700;
    for levels in [[-0.7, -0.1, 0.2, 1.5], [-0.7, -0.1, 0.2, f32::MAX]] {
        let start = rng.floats(len).iter().map(|x| x * 1e-3).collect::<Vec<f32>>();
        let indices: Vec<u32> = (0..len as u32).filter(|i| i % 3 == 0).collect();
        let codes: Vec<u8> = indices.iter().map(|_| (rng.next() % 4) as u8).collect();
        let mut one = start.clone();
        let rate = 1.7;
        outer::subtract_sparse(here(), &mut one[100..], rate, &levels, &indices[..150], &codes[..150]);
        let (mut sums, mut counts) = (vec![0.0; len], vec![0; len]);
        outer::accumulate_sparse(&mut sums, &mut counts, &levels, &indices, &codes);
        outer::accumulate_sparse(&mut sums, &mut counts, &levels, &indices[..90], &codes[..90]);
        let mut mean = start.clone();
        outer::subtract_mean(here(), &mut mean, rate, &sums, &counts);

        let part = |to: usize| Sparse::new(machine, &indices[..to], &codes[..to], &levels).expect("room");
        let mut found = on(machine, &start);
        let mut not_finite = Values::of(machine, &[0u32]).expect("room");
        ops::subtract_sparse(machine, &mut found, 100..len, rate, &part(150), &mut not_finite).expect("ran");
        same(&found, machine, &one, "sparse step");
        let mut flag = [9u32];
        not_finite.read(machine, &mut flag).expect("read");
        assert_eq!(flag[0] == 1, one.iter().any(|weight| !weight.is_finite()));

        let mut device_sums = on(machine, &vec![0.0; len]);
        let mut device_counts = Values::of(machine, &vec![0u32; len]).expect("room");
        for to in [indices.len(), 90] {
            ops::accumulate_sparse(machine, &mut device_sums, &mut device_counts, &part(to)).expect("ran");
        }
        let mut found = on(machine, &start);
        ops::subtract_mean(machine, &mut found, 0..len, rate, &device_sums, &device_counts).expect("ran");
        same(&found, machine, &mean, "mean step");
    }
}

/// The kept values of every tile, as the CPU finds them, and their places.
fn kept_on_the_cpu(tensor: Tiled, values: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let Tiled { rows, cols, side, k } = tensor;
    let (mut indices, mut chosen) = (Vec::new(), Vec::new());
    let (mut tile, mut scratch, mut positions) = (Vec::new(), Scratch::default(), Vec::new());
    for row in (0..rows).step_by(side) {
        for col in (0..cols).step_by(side) {
            let (height, width) = (side.min(rows - row), side.min(cols - col));
            let rectangle = Rectangle { first: row * cols + col, rows: height, cols: width, stride: cols };
            gather(here(), values, rectangle, &mut tile);
            let full = side * side;
            let kept = ((2 * height * width * k + full) / (2 * full)).max(1);
            top_k(here(), &tile, kept, &mut scratch, &mut positions);
            for position in positions.iter().map(|position| usize::from(*position)) {
                let flat = rectangle.first + position / width * cols + position % width;
                indices.push(flat as u32);
                chosen.push(values[flat]);
            }
        }
    }
    (indices, chosen)
}

fn the_largest_of_each_tile_are_those_of_the_cpu<M: Machine>(machine: &M) {
    let mut rng = Rng(21);
    let sizes = [
        (1, 1, 64, 64),
        (1, 150, 64, 64),
        (70, 66, 64, 64),
        (9, 11, 4, 3),
        (5, 5, 5, 25),
        (33, 20, 16, 1),
        (0, 5, 8, 3),
    ];
    for (rows, cols, side, k) in sizes {
        let tensor = Tiled { rows, cols, side, k };
        for kind in 0..3 {
            let values: Vec<f32> = match kind {
                // Ties everywhere.
                0 => (0..rows * cols).map(|_| (rng.next() % 5) as f32 - 2.0).collect(),
                1 => rng.floats(rows * cols),
                // Any bits at all.
                _ => (0..rows * cols).map(|_| f32::from_bits(rng.next() as u32)).collect(),
            };
            let (expected, expected_values) = kept_on_the_cpu(tensor, &values);
            assert_eq!(expected.len(), tensor.kept());
            let device = on(machine, &values);
            let mut indices = Values::of(machine, &vec![u32::MAX; expected.len()]).expect("room");
            let mut chosen = on(machine, &vec![7.0; expected.len()]);
            compress::top_k(machine, tensor, device.slice(0..rows * cols), &mut indices, &mut chosen).expect("ran");
            let mut found = vec![0; expected.len()];
            indices.read(machine, &mut found).expect("read");
            assert_eq!(found, expected, "{tensor:?}, kind {kind}");
            same(&chosen, machine, &expected_values, "kept values");
        }
    }
}

fn codes_and_levels_are_those_of_the_cpu<M: Machine>(machine: &M) {
    let mut rng = Rng(22);
    for bits in [1, 2, 4] {
        let lots: Vec<f32> = rng.floats(700).iter().map(|value| value + value.signum()).collect();
        let huge = [f32::MAX, -f32::MAX, f32::MAX, 1.0, 0.0];
        for values in [&lots[..], &lots[..64], &lots[..3], &lots[..2], &lots[..1], &[], &[0.25; 70], &[0.0; 5], &huge] {
            let mut expected = Vec::new();
            let expected_levels = quantise::quantise(here(), values, bits, &mut expected);
            let count = values.len();
            let device = on(machine, values);
            let mut codes = Values::of(machine, &vec![99_u8; count]).expect("room");
            let mut levels = Values::of(machine, &[7_u32; quantise::MAX_LEVELS]).expect("room");
            compress::quantise(machine, count, bits, &device, &mut codes, &mut levels).expect("ran");
            let (mut found, mut found_levels) = (vec![0; count], [0; quantise::MAX_LEVELS]);
            codes.read(machine, &mut found).expect("read");
            levels.read(machine, &mut found_levels).expect("read");
            assert_eq!((found, found_levels), (expected.clone(), expected_levels), "{count} values, {bits} bits");

            let each = 8 / bits as usize;
            let bytes: Vec<u8> = expected
                .chunks(each)
                .map(|codes| codes.iter().rev().fold(0, |byte, code| byte << bits | code))
                .collect();
            let mut packed = Values::of(machine, &vec![99_u8; bytes.len()]).expect("room");
            compress::pack(machine, count, bits, &codes, &mut packed).expect("ran");
            let mut found = vec![0; bytes.len()];
            packed.read(machine, &mut found).expect("read");
            assert_eq!(found, bytes, "{count} values, {bits} bits");
        }
    }
}

fn error_feedback_has_the_bits_of_the_cpu<M: Machine>(machine: &M) {
    let mut rng = Rng(23);
    for len in [1, 300] {
        for (feedback, values) in [(rng.hostile(len), rng.floats(len)), (rng.tiny(len), rng.hostile(len))] {
            let mut expected = values.clone();
            let whole = Rectangle { first: 0, rows: 1, cols: len, stride: len };
            feed_back(here(), 0.95, &feedback, &mut expected, whole);
            let mut found = on(machine, &values);
            compress::feed_back(machine, 0.95, &on(machine, &feedback), &mut found).expect("ran");
            same(&found, machine, &expected, "error feedback");
        }
    }
}

#[test]
#[should_panic(expected = "an index outside the weights")]
fn an_index_outside_the_weights_is_refused_before_the_kernel_sees_it() {
    let machine = machine();
    let sparse = Sparse::new(&machine, &[4], &[0], &[0.0]).expect("room");
    let mut weights = on(&machine, &[0.0; 8]);
    let mut flag = Values::of(&machine, &[0u32]).expect("room");
    let _ = ops::subtract_sparse(&machine, &mut weights, 0..4, 1.0, &sparse, &mut flag);
}
