//! A binary range coder on 64-bit integers, and the adaptive probability of one binary decision.
//!
//! The coder writes its whole state at the end, and the decoder insists on it, so exactly one byte string stands for one
//! sequence of decisions, and no proper prefix of that string is another sequence's.

/// How often decisions have gone which way, as a probability that follows them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bit {
    /// Probability of `true` in 2⁻¹⁶, in `FLOOR ..= 2¹⁶ − FLOOR`.
    one: u16,
    /// Decisions seen, up to `MEMORY`: the more, the slower the probability moves.
    seen: u8,
}

/// No decision is ever thought less likely than this (in 2⁻¹⁶), so a surprise costs at most 11 bits.
const FLOOR: u16 = 32;
/// About how many past decisions a probability remembers.
const MEMORY: u8 = 120;
/// How many decisions an initial estimate is worth.
const CONFIDENCE: u8 = 12;

/// `RATE[n]` is 2¹⁶ / (n + 1.5): the weight of the (n+1)-th decision.
const RATE: [i32; MEMORY as usize + 1] = {
    let mut rate = [0; MEMORY as usize + 1];
    let mut n = 0;
    while n < rate.len() {
        rate[n] = 131_072 / (2 * n as i32 + 3);
        n += 1;
    }
    rate
};

impl Bit {
    /// Starts from an estimate of the probability of `true`, in 2⁻¹⁶.
    pub(super) fn new(one: u32) -> Self {
        Self { one: clamp(one), seen: CONFIDENCE }
    }

    /// Knows nothing yet.
    pub(super) const EVEN: Bit = Bit { one: 1 << 15, seen: 0 };

    fn update(&mut self, bit: bool) {
        let target = if bit { 1 << 16 } else { 0 };
        let one = i64::from(self.one);
        let moved = one + (((target - one) * i64::from(RATE[usize::from(self.seen)])) >> 16);
        // `moved` lies between the old probability and the target, so it is in 0 ..= 2¹⁶.
        self.one = clamp(moved as u32);
        self.seen = (self.seen + 1).min(MEMORY);
    }
}

fn clamp(one: u32) -> u16 {
    // The upper bound is 65,504, which is a u16.
    one.clamp(u32::from(FLOOR), (1 << 16) - u32::from(FLOOR)) as u16
}

/// One side of the coder. The format is written once, as a walk over decisions, and both sides take that walk.
pub(super) trait Coder {
    /// Whether decisions come from the payload, so that what the walk wants doesn't count.
    const DECODES: bool;

    /// Codes one decision whose probability of `true` is `one` · 2⁻¹⁶. An encoder takes `want` and returns it; a decoder
    /// ignores it.
    fn decide(&mut self, one: u16, want: bool) -> bool;

    /// Codes one decision and lets its probability learn from it.
    fn bit(&mut self, bit: &mut Bit, want: bool) -> bool {
        let taken = self.decide(bit.one, want);
        bit.update(taken);
        taken
    }

    /// Codes the low `count` bits of `want`, most significant first, as evenly likely.
    fn plain(&mut self, count: u32, want: u32) -> u32 {
        (0..count).rev().fold(0, |value, at| value << 1 | u32::from(self.decide(1 << 15, want >> at & 1 == 1)))
    }
}

/// Writes decisions.
#[derive(Debug)]
pub(super) struct Encoder {
    /// The range's low end, without the words already written.
    low: u64,
    range: u64,
    words: Vec<u32>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { low: 0, range: u64::MAX, words: Vec::new() }
    }

    /// All words, the coder's final state included.
    pub(super) fn finish(mut self) -> Vec<u32> {
        self.words.extend([(self.low >> 32) as u32, self.low as u32]);
        self.words
    }

    fn carry(&mut self) {
        // The number written stays below 2⁶⁴ at the first word's scale, so a carry always finds a word that isn't full.
        for word in self.words.iter_mut().rev() {
            *word = word.wrapping_add(1);
            if *word != 0 {
                break;
            }
        }
    }
}

impl Coder for Encoder {
    const DECODES: bool = false;

    #[inline]
    fn decide(&mut self, one: u16, want: bool) -> bool {
        let bound = (self.range >> 16) * u64::from(one);
        if want {
            self.range = bound;
        } else {
            let (low, carried) = self.low.overflowing_add(bound);
            self.low = low;
            self.range -= bound;
            if carried {
                self.carry();
            }
        }
        if self.range >> 32 == 0 {
            self.words.push((self.low >> 32) as u32);
            self.low <<= 32;
            self.range <<= 32;
        }
        want
    }
}

/// Reads decisions. Past the end it reads zeros and remembers that it did.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    /// The payload's number minus the range's low end: below `range` unless `outside`.
    offset: u64,
    range: u64,
    rest: std::slice::ChunksExact<'a, u8>,
    overrun: bool,
    /// The payload starts with the one number that is in no encoder's range.
    outside: bool,
}

/// How a payload ends, compared with what an encoder writes for the same decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            decoder.outside = true;
            decoder.offset = 0;
        }
        decoder
    }

    /// Has the walk asked for more words than there are?
    pub(super) fn overrun(&self) -> bool {
        self.overrun
    }

    /// To be asked when the walk is over.
    pub(super) fn ending(&self) -> Ending {
        if self.overrun {
            Ending::Truncated
        } else if self.rest.len() != 0 || !self.rest.remainder().is_empty() {
            Ending::Trailing
        } else if self.outside || self.offset != 0 {
            // The encoder's last two words are its low end, so that the offset ends at zero.
            Ending::NotCanonical
        } else {
            Ending::Exact
        }
    }

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

    #[inline]
    fn decide(&mut self, one: u16, _want: bool) -> bool {
        let bound = (self.range >> 16) * u64::from(one);
        let taken = self.offset < bound;
        if taken {
            self.range = bound;
        } else {
            self.offset -= bound;
            self.range -= bound;
        }
        if self.range >> 32 == 0 {
            self.range <<= 32;
            self.offset = self.offset << 32 | u64::from(self.word());
        }
        taken
    }
}
