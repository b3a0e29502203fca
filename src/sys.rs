//! The few operating system calls that need `unsafe`.
