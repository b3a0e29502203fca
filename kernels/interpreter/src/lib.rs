//! Runs the PTX that the GPU judge is made of, instruction by instruction, on any machine: for tests.
//!
//! Knows the instructions that our PTX uses and no others: an unknown one, an access outside a buffer, a barrier or a shuffle
//! that not all threads reach is a fault, never a guess. Timing, caches and races are not modelled.

mod arithmetic;
mod parse;
mod warp;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use l402t_kernels::cuda::{Arg, CudaError, Kernel, Machine, Module};

use parse::Entry;

/// A GPU made of Rust.
#[derive(Debug)]
pub struct Interpreter {
    entries: HashMap<String, Entry>,
    memory: Mutex<Memory>,
}

/// A buffer of an [`Interpreter`].
#[derive(Debug)]
pub struct Buffer {
    place: usize,
}

/// Global memory. An address is the buffer's number + 1 in its upper half and the place in the lower, so that nothing
/// reaches from one buffer into the next.
#[derive(Debug, Default)]
struct Memory(Vec<Vec<u8>>);

impl Memory {
    fn range(&self, address: u64, bytes: usize) -> Result<(usize, std::ops::Range<usize>), String> {
        let (place, at) = ((address >> 32) as usize, (address & 0xffff_ffff) as usize);
        let len = place.checked_sub(1).and_then(|place| self.0.get(place)).map(Vec::len);
        match len {
            Some(len) if at + bytes <= len && at.is_multiple_of(bytes) => Ok((place - 1, at..at + bytes)),
            _ => Err(format!("{bytes} bytes at {address:#x} are outside every buffer or not aligned")),
        }
    }

    fn load(&self, address: u64, bytes: usize) -> Result<&[u8], String> {
        let (place, range) = self.range(address, bytes)?;
        Ok(&self.0[place][range])
    }

    fn store(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], String> {
        let (place, range) = self.range(address, bytes)?;
        Ok(&mut self.0[place][range])
    }
}

impl Interpreter {
    /// Reads these modules. Fails on an instruction that isn't known. No kernel of another module can be launched.
    pub fn new(modules: &[Module]) -> Result<Self, CudaError> {
        let mut entries = HashMap::new();
        for (_, ptx) in modules {
            entries.extend(parse::module(ptx).map_err(CudaError::Fault)?);
        }
        Ok(Self { entries, memory: Mutex::default() })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A test that failed elsewhere may read on.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn block(
        &self,
        entry: &Entry,
        threads: u32,
        block: [u32; 3],
        arguments: &HashMap<&str, u64>,
    ) -> Result<(), String> {
        let mut shared = vec![0xff; entry.shared_bytes];
        let mut warps: Vec<warp::Warp> =
            (0..threads / 32).map(|number| warp::Warp::new(entry, number, threads, block, arguments)).collect();
        while warps.iter().any(|warp| !warp.is_done()) {
            let mut memory = self.memory();
            for warp in warps.iter_mut().filter(|warp| !warp.is_done()) {
                warp.run(entry, &mut memory, &mut shared)?;
            }
            warps.iter_mut().for_each(warp::Warp::pass_barrier);
        }
        Ok(())
    }
}

impl Machine for Interpreter {
    type Buffer = Buffer;

    fn allocate(&self, bytes: usize) -> Result<Buffer, CudaError> {
        let mut memory = self.memory();
        // What nobody wrote is NaN, so that a use of it shows.
        memory.0.push(vec![0xff; bytes]);
        Ok(Buffer { place: memory.0.len() - 1 })
    }

    fn write(&self, buffer: &mut Buffer, at: usize, bytes: &[u8]) -> Result<(), CudaError> {
        self.memory().0[buffer.place][at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, buffer: &Buffer, at: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        bytes.copy_from_slice(&self.memory().0[buffer.place][at..at + bytes.len()]);
        Ok(())
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer, bytes: usize) -> Result<(), CudaError> {
        let copied = self.memory().0[from.place][..bytes].to_vec();
        self.memory().0[to.place][..bytes].copy_from_slice(&copied);
        Ok(())
    }

    fn zero(&self, buffer: &mut Buffer, bytes: usize) -> Result<(), CudaError> {
        self.memory().0[buffer.place][..bytes].fill(0);
        Ok(())
    }

    #[allow(unsafe_code, reason = "the trait's promise; every access is checked here")]
    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        args: &[Arg<'_, Buffer>],
    ) -> Result<(), CudaError> {
        let fault = |problem: String| CudaError::Fault(format!("{}: {problem}", kernel.name()));
        let entry = self.entries.get(kernel.name()).ok_or_else(|| fault("there is no such kernel".into()))?;
        if entry.parameters.len() != args.len() {
            return Err(fault(format!("{} arguments for {} parameters", args.len(), entry.parameters.len())));
        }
        let mut arguments = HashMap::new();
        for ((name, bytes), arg) in entry.parameters.iter().zip(args) {
            let (value, size) = match arg {
                Arg::Buffer(buffer, at) => ((buffer.place as u64 + 1) << 32 | *at as u64, 8),
                Arg::U32(value) => (u64::from(*value), 4),
                Arg::U64(value) => (*value, 8),
                Arg::F32(value) => (u64::from(value.to_bits()), 4),
            };
            if size != *bytes {
                return Err(fault(format!("an argument of {size} bytes for {name}, which has {bytes}")));
            }
            arguments.insert(name.as_str(), value);
        }
        for z in 0..grid[2] {
            for y in 0..grid[1] {
                for x in 0..grid[0] {
                    self.block(entry, threads, [x, y, z], &arguments).map_err(fault)?;
                }
            }
        }
        Ok(())
    }
}
