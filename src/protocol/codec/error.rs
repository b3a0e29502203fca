//! What can be wrong with settings, with an update, and with the bytes of one.

use super::{Format, MAX_NUMEL, MAX_TILE, VERSION};

/// Settings that no update can be coded with: a mistake in the run's manifest or model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedParams {
    /// Another version of the format.
    #[error("codec version {0} is not supported, only {VERSION}")]
    Version(u32),
    /// The tile's side is out of range.
    #[error("a tile of {0} × {0} is not supported: its side must be 1 to {MAX_TILE}")]
    Tile(u32),
    /// No codes have so many bits.
    #[error("values of {0} bits are not supported: 1, 2 or 4 of the largest ones, 8 of all")]
    ValueBits(u32),
    /// A dense update has every value.
    #[error("values of 8 bits are for updates with every value: k must be {} with a tile of {tile}, not {k}", tile * tile)]
    NotAll {
        /// Values to keep.
        k: u32,
        /// The tile's side.
        tile: u32,
    },
    /// k is out of range.
    #[error("{k} values can't be kept of a tile of {tile} × {tile}")]
    Kept {
        /// Values to keep.
        k: u32,
        /// The tile's side.
        tile: u32,
    },
    /// A tensor is too large.
    #[error("tensor {tensor} has {numel} values; at most {MAX_NUMEL} are supported")]
    Numel {
        /// Its place in the layout.
        tensor: usize,
        /// How many values it has.
        numel: u64,
    },
}

/// What is wrong with a tensor's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelFault {
    /// NaN or infinite.
    #[error("a level is not finite")]
    NotFinite,
    /// More precise than bfloat16.
    #[error("a level has more than bfloat16's precision")]
    TooPrecise,
    /// −0.
    #[error("a level is −0")]
    NegativeZero,
    /// Not in strictly ascending order over the codes that occur.
    #[error("the levels don't ascend")]
    NotAscending,
    /// A code that doesn't occur has a level.
    #[error("a code that doesn't occur has a level")]
    Unused,
}

/// What is wrong with a tile of a dense update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileFault {
    /// Negative, subnormal, or so large that a value wouldn't be finite.
    #[error("a scale is out of range")]
    Scale,
    /// Code 0, which would be the only one without an opposite.
    #[error("a code is out of range")]
    Code,
    /// No value takes the largest code, or one isn't 0 in a tile of zeros: other bytes would say the same.
    #[error("a tile is not scaled to its largest value")]
    NotScaled,
}

/// Why an update can't be encoded. Every one of them is a mistake of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The settings.
    #[error(transparent)]
    Params(#[from] UnsupportedParams),
    /// A sparse update where the run's are dense, or the other way round.
    #[error("the update is {found}, the run's are {expected}")]
    Format {
        /// The run's.
        expected: Format,
        /// The update's.
        found: Format,
    },
    /// A dense update of another tile.
    #[error("the update's tiles have side {found}, the run's {expected}")]
    TileSide {
        /// The run's.
        expected: u32,
        /// The update's.
        found: u32,
    },
    /// Not one entry a tensor.
    #[error("the update has {found} tensors, the model {expected}")]
    Tensors {
        /// The model's.
        expected: usize,
        /// The update's.
        found: usize,
    },
    /// Not as many indices or codes as the tensor keeps.
    #[error("tensor {tensor} has {indices} indices and {codes} codes; it keeps {kept}")]
    Kept {
        /// Its place in the layout.
        tensor: usize,
        /// Values to keep.
        kept: u64,
        /// Indices found.
        indices: usize,
        /// Codes found.
        codes: usize,
    },
    /// An index that isn't in its tile, or not above the one before.
    #[error("tensor {tensor}: index {index} is not in its tile or out of order")]
    Index {
        /// Its place in the layout.
        tensor: usize,
        /// The index.
        index: u32,
    },
    /// A code that has more bits than the run's values.
    #[error("tensor {tensor}: {code} is not a code of this run")]
    Code {
        /// Its place in the layout.
        tensor: usize,
        /// The code.
        code: u8,
    },
    /// The levels break a rule.
    #[error("tensor {tensor}: {fault}")]
    Levels {
        /// Its place in the layout.
        tensor: usize,
        /// The rule.
        fault: LevelFault,
    },
    /// Not as many scales or codes as a dense tensor has.
    #[error("tensor {tensor} has {scales} scales and {codes} codes; it needs {tiles} and {numel}")]
    Values {
        /// Its place in the layout.
        tensor: usize,
        /// Its tiles.
        tiles: usize,
        /// Its values.
        numel: u64,
        /// Scales found.
        scales: usize,
        /// Codes found.
        codes: usize,
    },
    /// A tile breaks a rule.
    #[error("tensor {tensor}: {fault}")]
    Tile {
        /// Its place in the layout.
        tensor: usize,
        /// The rule.
        fault: TileFault,
    },
}

/// Why bytes are not an update of the given shapes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The settings, not the bytes.
    #[error(transparent)]
    Params(#[from] UnsupportedParams),
    /// It doesn't start like an update.
    #[error("this is not an update of this run's format: the magic bytes are missing")]
    Magic,
    /// Written in another version of the format.
    #[error("update of version {0}; only {VERSION} can be read")]
    Version(u8),
    /// It ends too early.
    #[error("the update is truncated")]
    Truncated,
    /// It goes on after its end.
    #[error("the update is followed by other bytes")]
    Trailing,
    /// Not the bytes that its own contents encode to.
    #[error("the update is not in its canonical encoding")]
    NotCanonical,
    /// The levels break a rule.
    #[error("tensor {tensor}: {fault}")]
    Levels {
        /// Its place in the layout.
        tensor: usize,
        /// The rule.
        fault: LevelFault,
    },
    /// A tile of a dense update breaks a rule.
    #[error("tensor {tensor}: {fault}")]
    Tile {
        /// Its place in the layout.
        tensor: usize,
        /// The rule.
        fault: TileFault,
    },
}

impl DecodeError {
    /// A stable name for verdicts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            DecodeError::Params(_) => "unsupported_params",
            DecodeError::Magic => "bad_magic",
            DecodeError::Version(_) => "unknown_version",
            DecodeError::Truncated => "truncated",
            DecodeError::Trailing => "trailing_bytes",
            DecodeError::NotCanonical => "not_canonical",
            DecodeError::Levels { fault, .. } => match fault {
                LevelFault::NotFinite => "level_not_finite",
                LevelFault::TooPrecise => "level_too_precise",
                LevelFault::NegativeZero => "level_negative_zero",
                LevelFault::NotAscending => "levels_not_ascending",
                LevelFault::Unused => "unused_level",
            },
            DecodeError::Tile { fault, .. } => match fault {
                TileFault::Scale => "scale_out_of_range",
                TileFault::Code => "code_out_of_range",
                TileFault::NotScaled => "tile_not_scaled",
            },
        }
    }
}
