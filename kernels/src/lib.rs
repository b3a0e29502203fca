//! DF32 kernels, version 1: f32 arithmetic whose bits are the same on every instruction set and any number of threads.
//!
//! - IEEE binary32, round to nearest even, subnormals kept. Only + − × ÷ √ fma, comparisons and integer bit operations;
//!   every multiply-add is an explicit fma, and nothing else is ever contracted.
//! - No call into libm, BLAS or libtorch. `unsafe` lives here, with its reasons.
//! - Whether a result is NaN is defined; which NaN it is isn't. No NaN may reach a digest.
//!
//! The portable path is the definition; the others are tested against it.

pub mod attention;
pub mod bfloat16;
mod buffer;
pub mod cuda;
pub mod dense;
mod fma;
mod fp_env;
pub mod gemm;
mod isa;
pub mod known_answers;
pub mod outer;
mod pool;
pub mod quantise;
mod reduce;
pub mod rope;
pub mod rows;
mod scalar;
#[cfg(test)]
mod tests;
pub mod tile;
pub mod topk;

pub use isa::{Isa, UnknownIsa};
pub use pool::Pool;
pub use reduce::sum_of_squares;
