//! The sparse update: SparseLoCo's top-k of each tile with 2-bit values, and its canonical wire format.
//!
//! Floats appear as their bits only.

/// The f32 levels of a tensor, as bits: code c stands for the value `levels[c]`.
pub type Levels = [u32; 4];

/// One tensor's kept values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseTensor {
    /// Quantisation levels (finite f32 bits), ascending not required.
    pub levels: Levels,
    /// Flat row-major positions in the tensor, tile after tile, increasing within a tile.
    pub indices: Vec<u32>,
    /// The 2-bit code of each index.
    pub codes: Vec<u8>,
}

/// A decoded update: one entry a tensor, in layout order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseUpdate {
    /// In layout order.
    pub tensors: Vec<SparseTensor>,
}

/// A tensor's shape, as far as tiling is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorShape {
    /// 1-D.
    Vector {
        /// Values.
        len: u32,
    },
    /// 2-D, row-major.
    Matrix {
        /// Rows.
        rows: u32,
        /// Columns.
        cols: u32,
    },
}

impl TensorShape {
    /// How many values it has.
    pub fn numel(self) -> u64 {
        match self {
            TensorShape::Vector { len } => u64::from(len),
            TensorShape::Matrix { rows, cols } => u64::from(rows) * u64::from(cols),
        }
    }
}
