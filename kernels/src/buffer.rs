//! Scratch memory on cache-line boundaries, so that no 64-byte load straddles two lines.

#[repr(align(64))]
#[allow(dead_code, reason = "read through the cast in take")]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

/// A growing f32 buffer that starts on a cache line.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    /// The first `len` values, whatever they hold.
    pub(crate) fn take(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        // SAFETY: the lines are initialised, contiguous arrays of f32 without padding (64 bytes, aligned to 64), and
        // `len` is at most 16 times their number.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<f32>(), len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} lines)", self.0.len())
    }
}
