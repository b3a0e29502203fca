//! DF32 kernels.
