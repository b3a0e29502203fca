//! Variants that the tests of judge and trainer share.

use super::{Family, RopeScaling, SlidingWindow, Variant};

/// A plain Llama, and one of everything that goes beyond it.
pub(crate) fn variants() -> Vec<Variant> {
    let plain = Variant::default();
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 16 };
    vec![
        plain,
        Variant { rope_scaling: RopeScaling::Linear { factor: 2.5 }, ..plain },
        Variant { rope_scaling: llama3, ..plain },
        Variant { query_key_value_bias: true, output_bias: true, ..plain },
        Variant { mlp_bias: true, ..plain },
        Variant { family: Family::Qwen2, query_key_value_bias: true, ..plain },
        mistral(1),
        mistral(5),
        Variant {
            family: Family::Qwen2,
            query_key_value_bias: true,
            sliding_window: Some(SlidingWindow { tokens: 3, first_layer: 1 }),
            ..plain
        },
    ]
}

fn mistral(tokens: usize) -> Variant {
    let sliding_window = Some(SlidingWindow { tokens, first_layer: 0 });
    Variant { family: Family::Mistral, sliding_window, ..Variant::default() }
}
