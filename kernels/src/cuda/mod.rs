//! DF32 on CUDA: the kernels of `kernels/cuda` as PTX, what they may be asked, and the machines that run them.
//!
//! The PTX is part of the program, so that nobody needs CUDA's compiler: the driver makes machine code of it. It holds only
//! operations that IEEE 754 defines to the bit (checked in `tests/cuda.rs`), so a GPU's results are the portable path's.
//! This module must never fall back to the CPU by itself, and never launch a kernel on more than its buffers hold.

pub mod compress;
#[cfg(feature = "cuda")]
mod gpu;
mod memory;
pub mod ops;

#[cfg(feature = "cuda")]
pub use gpu::Gpu;
pub use memory::{Plain, Slice, Values};

/// A module's name and PTX.
pub type Module = (&'static str, &'static str);

const GEMM: Module = ("gemm", include_str!("../../cuda/ptx/gemm.ptx"));
const ROWS: Module = ("rows", include_str!("../../cuda/ptx/rows.ptx"));
const ELEMENTWISE: Module = ("elementwise", include_str!("../../cuda/ptx/elementwise.ptx"));
const COMPRESS: Module = ("compress", include_str!("../../cuda/ptx/compress.ptx"));

/// What a judge runs. Whoever doesn't compress needn't wait until the driver has compiled what only [`compress`] launches.
pub const JUDGING: [Module; 3] = [GEMM, ROWS, ELEMENTWISE];
/// Every module.
pub const MODULES: [Module; 4] = [GEMM, ROWS, ELEMENTWISE, COMPRESS];

/// Why a GPU can't be used, or stopped being usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaError {
    /// This program was built without CUDA.
    NotBuilt,
    /// The driver's library isn't there.
    NoDriver,
    /// There is no device of that number.
    NoDevice {
        /// What was asked for.
        device: usize,
        /// How many there are.
        devices: usize,
    },
    /// It doesn't fit.
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// The driver refused something.
    Driver {
        /// What was being done.
        doing: &'static str,
        /// The driver's words.
        problem: String,
    },
    /// A kernel did what it must not (found by the interpreter only).
    Fault(String),
}

impl std::fmt::Display for CudaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CudaError::NotBuilt => f.write_str("this program was built without the feature cuda"),
            CudaError::NoDriver => {
                f.write_str("there is no NVIDIA driver on this machine (libcuda.so.1 can't be loaded)")
            }
            CudaError::NoDevice { device, devices } => {
                write!(f, "there is no CUDA device {device}: the driver sees {devices}")
            }
            CudaError::OutOfMemory { bytes } => write!(f, "the GPU has no room for another {bytes} bytes"),
            CudaError::Driver { doing, problem } => write!(f, "the GPU's driver failed {doing}: {problem}"),
            CudaError::Fault(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for CudaError {}

/// What a kernel is given.
#[derive(Debug)]
pub enum Arg<'a, B> {
    /// A buffer from this byte on.
    Buffer(&'a B, usize),
    /// A number.
    U32(u32),
    /// A number.
    U64(u64),
    /// A number.
    F32(f32),
}

/// Something with memory of its own that runs the kernels: a GPU, or the tests' interpreter. Work happens in the order in
/// which it is given; reading waits for it.
pub trait Machine {
    /// A piece of its memory, starting on at least 16 bytes.
    type Buffer: std::fmt::Debug;

    /// Memory of at least one byte, holding anything.
    fn allocate(&self, bytes: usize) -> Result<Self::Buffer, CudaError>;
    /// Copies bytes to it, from byte `at` on. They fit.
    fn write(&self, buffer: &mut Self::Buffer, at: usize, bytes: &[u8]) -> Result<(), CudaError>;
    /// Copies bytes from it. They are there.
    fn read(&self, buffer: &Self::Buffer, at: usize, bytes: &mut [u8]) -> Result<(), CudaError>;
    /// Copies the first bytes of one to another. Both have them.
    fn copy(&self, from: &Self::Buffer, to: &mut Self::Buffer, bytes: usize) -> Result<(), CudaError>;
    /// Zeroes the first bytes.
    fn zero(&self, buffer: &mut Self::Buffer, bytes: usize) -> Result<(), CudaError>;
    /// Runs a kernel on `grid` blocks of `threads` threads, a multiple of 32.
    ///
    /// # Safety
    /// The arguments have the kernel's types, and every place it touches with them lies inside its buffers.
    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: [u32; 3],
        threads: u32,
        args: &[Arg<'_, Self::Buffer>],
    ) -> Result<(), CudaError>;
}

macro_rules! kernels {
    ($($kernel:ident => $module:literal $name:literal),* $(,)?) => {
        /// A kernel of the PTX.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[allow(missing_docs, reason = "each is described beside its source")]
        pub enum Kernel {
            $($kernel),*
        }

        impl Kernel {
            /// All of them.
            pub const ALL: &[Kernel] = &[$(Kernel::$kernel),*];

            /// Its name in the PTX.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => $name),*
                }
            }

            /// The module that has it.
            pub fn module(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => $module),*
                }
            }
        }
    };
}

kernels! {
    Gemm => "gemm" "gemm",
    GemmAligned => "gemm" "gemm_aligned",
    AttentionScores => "gemm" "attention_scores",
    AttentionMix => "gemm" "attention_mix",
    RmsNorm => "rows" "rms_norm",
    CausalSoftmax => "rows" "causal_softmax",
    CrossEntropy => "rows" "cross_entropy",
    Embed => "elementwise" "embed",
    Rope => "elementwise" "rope",
    Swiglu => "elementwise" "swiglu",
    AddTo => "elementwise" "add_to",
    AddBias => "elementwise" "add_bias",
    SubtractSparse => "elementwise" "subtract_sparse",
    AccumulateSparse => "elementwise" "accumulate_sparse",
    SubtractMean => "elementwise" "subtract_mean",
    FeedBack => "compress" "feed_back",
    TopK => "compress" "top_k",
    Quantise => "compress" "quantise",
    Pack => "compress" "pack",
}
