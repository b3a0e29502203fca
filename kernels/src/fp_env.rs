//! The floating-point environment that DF32 needs: round to nearest even, subnormals kept, no traps.
//!
//! Libraries built with fast-math switch on flush-to-zero in the threads they touch, and say nothing.

/// Runs `work` with the environment pinned, and puts the old one back.
pub(crate) fn pinned<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(u64);
    impl Drop for Restore {
        fn drop(&mut self) {
            set(self.0);
        }
    }
    let _restore = Restore(get());
    set(PINNED);
    opaque(work)
}

/// Not inlined, so that no operation moves across the switch.
#[inline(never)]
fn opaque<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(target_arch = "x86_64")]
const PINNED: u64 = 0x1F80;
#[cfg(not(target_arch = "x86_64"))]
const PINNED: u64 = 0;

#[cfg(target_arch = "x86_64")]
fn get() -> u64 {
    let mut mxcsr = 0u32;
    // SAFETY: stmxcsr writes four bytes to the address of a live u32.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack, preserves_flags)) };
    u64::from(mxcsr)
}

#[cfg(target_arch = "x86_64")]
fn set(value: u64) {
    let mxcsr = value as u32;
    // SAFETY: ldmxcsr reads four bytes; the value is 0x1F80 or was read from the register, so no reserved bit is set.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mxcsr, options(nostack, preserves_flags)) };
}

#[cfg(target_arch = "aarch64")]
fn get() -> u64 {
    let fpcr: u64;
    // SAFETY: reading FPCR has no effect.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack, preserves_flags)) };
    fpcr
}

#[cfg(target_arch = "aarch64")]
fn set(value: u64) {
    // SAFETY: the value is 0 (the default environment) or was read from the register.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn get() -> u64 {
    0
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn set(_value: u64) {}

#[cfg(test)]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tests {
    use super::*;

    #[test]
    fn subnormals_are_kept_even_where_a_library_flushed_them() {
        #[cfg(target_arch = "x86_64")]
        const FLUSHING: u64 = 0x9FC0;
        #[cfg(target_arch = "aarch64")]
        const FLUSHING: u64 = 1 << 24;
        let half = |x: f32| std::hint::black_box(std::hint::black_box(x) * std::hint::black_box(0.5));
        let before = get();
        set(FLUSHING);
        let flushed = half(f32::MIN_POSITIVE);
        let kept = pinned(|| half(f32::MIN_POSITIVE));
        let restored = get();
        set(before);
        assert_eq!(flushed.to_bits(), 0);
        assert_eq!(kept.to_bits(), 0x0040_0000);
        assert_eq!(restored & !0x3f, FLUSHING & !0x3f);
    }
}
