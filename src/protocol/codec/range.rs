//! A range coder on 64-bit integers: choices of known probability become one number, written in 32-bit words.
//!
//! The coder writes its whole state at the end, and the decoder insists on it, so exactly one byte string stands for one
//! sequence of choices, and no proper prefix of that string is another sequence's.

/// What the parts of a choice add up to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Total {
    /// 2 to this power, at most 16.
    Power(u32),
    /// 1 ..= 2¹⁶.
    Sum(u32),
}

impl Total {
    /// What one unit is of a range. Never 0: a range is at least 2³².
    #[inline(always)]
    fn unit_of(self, range: u64) -> u64 {
        match self {
            Total::Power(bits) => range >> bits,
            Total::Sum(sum) => range / u64::from(sum),
        }
    }

    #[inline(always)]
    fn get(self) -> u64 {
        match self {
            Total::Power(bits) => 1 << bits,
            Total::Sum(sum) => u64::from(sum),
        }
    }
}

/// One side of the coder. The format is written once, as a walk over choices, and both sides take that walk.
pub(super) trait Coder {
    /// Whether choices come from the payload, so that what the walk wants doesn't count.
    const DECODES: bool;

    /// Codes one choice. Choice `c` has the part `bounds(c)` (start and end, not equal) of `total`, and `find` gives the
    /// choice whose part holds a number below `total`. An encoder takes `want` and returns it; a decoder ignores it.
    fn choose(
        &mut self,
        total: Total,
        want: usize,
        find: impl FnOnce(u32) -> usize,
        bounds: impl FnOnce(usize) -> (u32, u32),
    ) -> usize;

    /// The payload can't be an encoder's. Nothing happens on the encoder's side.
    fn refuse(&mut self);

    /// Codes the low `count` (at most 16) bits of `want` as evenly likely.
    fn plain(&mut self, count: u32, want: u32) -> u32 {
        self.choose(Total::Power(count), want as usize, |at| at as usize, |at| (at as u32, at as u32 + 1)) as u32
    }
}

/// Writes choices.
#[derive(Debug)]
pub(super) struct Encoder {
    /// The range's low end, without the words already written.
    low: u64,
    range: u64,
    bytes: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { low: 0, range: u64::MAX, bytes: Vec::new() }
    }

    /// The words, those of the coder's final state included.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let low = self.low;
        self.word((low >> 32) as u32);
        self.word(low as u32);
        self.bytes
    }

    #[inline(always)]
    fn word(&mut self, word: u32) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    #[cold]
    fn carry(&mut self) {
        // The number written stays below 2⁶⁴ at the first word's scale, so a carry always finds a word that isn't full.
        for word in self.bytes.rchunks_exact_mut(4) {
            let next = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_add(1);
            word.copy_from_slice(&next.to_le_bytes());
            if next != 0 {
                break;
            }
        }
    }
}

impl Coder for Encoder {
    const DECODES: bool = false;

    #[inline(always)]
    fn choose(
        &mut self,
        total: Total,
        want: usize,
        _find: impl FnOnce(u32) -> usize,
        bounds: impl FnOnce(usize) -> (u32, u32),
    ) -> usize {
        let (start, end) = bounds(want);
        let unit = total.unit_of(self.range);
        // Both products are at most the range.
        let (low, carried) = self.low.overflowing_add(unit.wrapping_mul(u64::from(start)));
        self.low = low;
        self.range = unit.wrapping_mul(u64::from(end.wrapping_sub(start)));
        if carried {
            self.carry();
        }
        if self.range >> 32 == 0 {
            self.word((self.low >> 32) as u32);
            self.low <<= 32;
            self.range <<= 32;
        }
        want
    }

    fn refuse(&mut self) {}
}

/// Reads choices. Past the end it reads zeros and remembers that it did.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    /// The payload's number minus the range's low end: below `range`.
    offset: u64,
    range: u64,
    rest: std::slice::ChunksExact<'a, u8>,
    overrun: bool,
    /// The payload's number is one that no encoder writes.
    outside: bool,
}

/// How a payload ends, compared with what an encoder writes for the same choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    Exact,
    Truncated,
    Trailing,
    NotCanonical,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder =
            Self { offset: 0, range: u64::MAX, rest: bytes.chunks_exact(4), overrun: false, outside: false };
        decoder.offset = u64::from(decoder.word()) << 32 | u64::from(decoder.word());
        if decoder.offset == u64::MAX {
            decoder.refuse();
        }
        decoder
    }

    /// Has the walk asked for more words than there are?
    pub(super) fn overrun(&self) -> bool {
        self.overrun
    }

    /// Is it certain that no encoder wrote this?
    pub(super) fn outside(&self) -> bool {
        self.outside
    }

    /// To be asked when the walk is over.
    pub(super) fn ending(&self) -> Ending {
        if self.overrun {
            Ending::Truncated
        } else if self.outside {
            Ending::NotCanonical
        } else if self.rest.len() != 0 || !self.rest.remainder().is_empty() {
            Ending::Trailing
        } else if self.offset != 0 {
            // The encoder's last two words are its low end, so that the offset ends at zero.
            Ending::NotCanonical
        } else {
            Ending::Exact
        }
    }

    #[inline(always)]
    fn word(&mut self) -> u32 {
        match self.rest.next() {
            Some(word) => u32::from_le_bytes([word[0], word[1], word[2], word[3]]),
            None => {
                self.overrun = true;
                0
            }
        }
    }
}

impl Coder for Decoder<'_> {
    const DECODES: bool = true;

    #[inline(always)]
    fn choose(
        &mut self,
        total: Total,
        _want: usize,
        find: impl FnOnce(u32) -> usize,
        bounds: impl FnOnce(usize) -> (u32, u32),
    ) -> usize {
        let unit = total.unit_of(self.range);
        let mut target = self.offset / unit;
        if target >= total.get() {
            // In the part of the range that no choice was given: less than one unit of a total.
            self.refuse();
            target = 0;
        }
        let chosen = find(target as u32);
        let (start, end) = bounds(chosen);
        self.offset = self.offset.wrapping_sub(unit.wrapping_mul(u64::from(start)));
        self.range = unit.wrapping_mul(u64::from(end.wrapping_sub(start)));
        if self.range >> 32 == 0 {
            self.range <<= 32;
            self.offset = self.offset << 32 | u64::from(self.word());
        }
        chosen
    }

    #[cold]
    fn refuse(&mut self) {
        self.outside = true;
        self.offset = 0;
    }
}
