//! Training: data, model, inner loop (libtorch through tch, feature `torch`), error feedback and compression.

pub mod compress;
