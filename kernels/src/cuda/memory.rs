//! Numbers in a machine's memory, and parts of them.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Arg, CudaError, Machine};

/// What a device's buffer can hold: plain numbers, little-endian as on every machine with CUDA.
pub trait Plain: Copy + Default + private::Sealed {}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
    impl Sealed for i64 {}
    impl Sealed for u8 {}
}
impl Plain for f32 {}
impl Plain for u32 {}
impl Plain for i64 {}
impl Plain for u8 {}

fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: a Plain is a number without padding, so its bytes are initialised; the length is that of the slice.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bits is a Plain.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Numbers in a machine's memory.
#[derive(Debug)]
pub struct Values<M: Machine, T> {
    buffer: M::Buffer,
    pub(super) len: usize,
    kind: PhantomData<T>,
}

/// Some of them, in a row.
#[derive(Debug)]
pub struct Slice<'a, M: Machine, T> {
    buffer: &'a M::Buffer,
    pub(super) start: usize,
    pub(super) len: usize,
    kind: PhantomData<T>,
}

impl<M: Machine, T> Clone for Slice<'_, M, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine, T> Copy for Slice<'_, M, T> {}

impl<M: Machine, T: Plain> Values<M, T> {
    /// Room for `len` numbers, holding anything.
    pub fn new(machine: &M, len: usize) -> Result<Self, CudaError> {
        Ok(Self { buffer: machine.allocate((len * size_of::<T>()).max(1))?, len, kind: PhantomData })
    }

    /// A copy of these.
    pub fn of(machine: &M, values: &[T]) -> Result<Self, CudaError> {
        let mut new = Self::new(machine, values.len())?;
        new.write(machine, values)?;
        Ok(new)
    }

    /// Makes room for at least `len` numbers; what was there may be lost.
    pub fn reserve(&mut self, machine: &M, len: usize) -> Result<(), CudaError> {
        if len > self.len {
            *self = Self::new(machine, len)?;
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Overwrites the first ones. Panics if they don't fit.
    pub fn write(&mut self, machine: &M, values: &[T]) -> Result<(), CudaError> {
        assert!(values.len() <= self.len, "more values than there is room for");
        if values.is_empty() { Ok(()) } else { machine.write(&mut self.buffer, 0, bytes(values)) }
    }

    /// Copies the first ones out. Panics if there aren't so many.
    pub fn read(&self, machine: &M, values: &mut [T]) -> Result<(), CudaError> {
        assert!(values.len() <= self.len, "fewer values than asked for");
        if values.is_empty() { Ok(()) } else { machine.read(&self.buffer, 0, bytes_mut(values)) }
    }

    /// Overwrites all with another's. Panics if there aren't as many.
    pub fn copy_from(&mut self, machine: &M, other: &Self) -> Result<(), CudaError> {
        assert_eq!(self.len, other.len);
        machine.copy(&other.buffer, &mut self.buffer, self.len * size_of::<T>())
    }

    /// Makes the first `len` zero. Panics if there aren't so many.
    pub fn zero(&mut self, machine: &M, len: usize) -> Result<(), CudaError> {
        assert!(len <= self.len);
        machine.zero(&mut self.buffer, len * size_of::<T>())
    }

    /// Some of them. Panics where they aren't.
    pub fn slice(&self, range: Range<usize>) -> Slice<'_, M, T> {
        assert!(range.start <= range.end && range.end <= self.len, "a slice reaches past its values");
        Slice { buffer: &self.buffer, start: range.start, len: range.len(), kind: PhantomData }
    }

    pub(super) fn arg(&self) -> Arg<'_, M::Buffer> {
        Arg::Buffer(&self.buffer, 0)
    }
}

impl<'a, M: Machine, T> Slice<'a, M, T> {
    pub(super) fn arg(self) -> Arg<'a, M::Buffer> {
        Arg::Buffer(self.buffer, self.start * size_of::<T>())
    }
}
