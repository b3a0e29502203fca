//! The judge: decode, apply, score, verdict and outer step in DF32, and the replay of a round.
//!
//! No libtorch, no libm and no BLAS call may be made from here.
