//! A tensor of an update when earlier updates of the same round have been coded: peers that start from one checkpoint choose
//! many of the same places, and nearly always move them in the same direction.
//!
//! Tile by tile: for each place that an earlier update holds whether this one holds it too, in the columns; then the rows
//! and columns of what is left, as if there were no other update, except that rows and columns with such places are expected
//! to hold more; then, in the codes, those of the shared places, each after the code that was there, and those of the rest. A
//! place that an earlier update holds has one way to be chosen only, so an update has one encoding.

use std::array::from_fn;

use super::model::Model;
use super::range::Coder;
use super::symbols::Symbols;
use super::tiles::Tile;
use super::walk::{Streams, Walk, code_tile, each_tile, levels};
use super::{MAX_LEVELS, SparseTensor, TensorShape};
use crate::protocol::manifest::CodecParams;

/// So many holders of a place, and so many updates, are told apart.
const MOST: usize = 16;
/// What a holder counts for in the expectation of a row or column, against a value of this update.
const HINT: u32 = 2;

/// What earlier updates chose in one tensor: two bytes a value.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    updates: usize,
    /// How many hold a place, up to `MOST` − 1.
    holders: Vec<u8>,
    /// The last of these holders' code.
    codes: Vec<u8>,
}

impl Earlier {
    /// Nothing is allocated before the first update.
    pub(super) fn is_empty(&self) -> bool {
        self.updates == 0
    }

    pub(super) fn add(&mut self, shape: TensorShape, tensor: &SparseTensor) {
        if self.is_empty() {
            // Fewer than 2³¹ values.
            self.holders = vec![0; shape.numel() as usize];
            self.codes = vec![0; shape.numel() as usize];
        }
        self.updates += 1;
        for (index, code) in tensor.indices.iter().zip(&tensor.codes) {
            let holders = &mut self.holders[*index as usize];
            *holders = (*holders + 1).min(MOST as u8 - 1);
            self.codes[*index as usize] = *code;
        }
    }
}

/// The probabilities of what updates share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Whether a place is held too, by the number of earlier updates and of its holders.
    held: [[Symbols<2>; MOST]; MOST],
    /// Its code, by the last holder's.
    codes: [Symbols<MAX_LEVELS>; MAX_LEVELS],
}

impl Shared {
    pub(super) fn new() -> Self {
        let held =
            |updates: usize, holders: usize| Symbols::estimated([(2 * updates - holders) as u32, holders as u32]);
        Self {
            held: from_fn(|updates| from_fn(|holders| held(updates.max(1), holders.clamp(1, updates.max(1))))),
            codes: [Symbols::even(); MAX_LEVELS],
        }
    }
}

/// As [`super::walk::tensor`], after at least one other update.
pub(super) fn tensor<C: Coder>(
    coders: &mut Streams<C>,
    (model, shared): (&mut Model, &mut Shared),
    params: &CodecParams,
    shape: TensorShape,
    used: &mut [bool; MAX_LEVELS],
    (earlier, tensor): (&Earlier, &mut SparseTensor),
) {
    levels(coders, model, params, used, tensor);
    let mut split = Split::default();
    each_tile(params, shape, tensor, |walk, tile, indices, codes| {
        split.hold(coders, shared, tile, earlier, indices, codes);
        split.rest(coders, model, walk, tile, earlier);
        split.codes(coders, (model, shared), walk, params.value_bits, earlier);
        split.join(indices, codes);
    });
}

/// A tile's values: those that earlier updates hold too, and the others.
#[derive(Debug, Default)]
struct Split {
    held: Vec<u32>,
    held_codes: Vec<u8>,
    rest: Vec<u32>,
    rest_codes: Vec<u8>,
    /// Row and column in the tile of every place that an earlier update holds, and by how many.
    places: Vec<(u32, u32, u8)>,
}

impl Split {
    /// Which of the earlier updates' places are held. An encoder reads the tile's values, a decoder only counts them.
    fn hold<C: Coder>(
        &mut self,
        coders: &mut Streams<C>,
        shared: &mut Shared,
        tile: &Tile,
        earlier: &Earlier,
        indices: &[u32],
        codes: &[u8],
    ) {
        self.places.clear();
        for row in 0..tile.rows {
            let start = tile.at(row, 0) as usize;
            let holders = &earlier.holders[start..start + tile.cols as usize];
            let held = (0..).zip(holders).filter(|(_, holders)| **holders > 0);
            self.places.extend(held.map(|(col, holders)| (row, col, *holders)));
        }
        let (mut needed, mut left) = (indices.len(), self.places.len());
        let free = tile.numel() as usize - left;
        let symbols = &mut shared.held[earlier.updates.min(MOST - 1)];
        self.held.clear();
        let mut wanted = indices.iter().peekable();
        for (row, col, holders) in &self.places {
            let flat = tile.at(*row, *col);
            while wanted.next_if(|index| **index < flat).is_some() {}
            let want = !C::DECODES && wanted.peek() == Some(&&flat);
            let held = match needed {
                0 => false,
                _ if needed == free + left => true,
                _ => symbols[usize::from(*holders)].code(&mut coders.columns, usize::from(want)) == 1,
            };
            left -= 1;
            if held {
                self.held.push(flat);
                needed -= 1;
            }
        }
        self.rest.clear();
        self.rest_codes.clear();
        self.held_codes.clear();
        if C::DECODES {
            self.rest.resize(needed, 0);
            self.rest_codes.resize(needed, 0);
            self.held_codes.resize(self.held.len(), 0);
        } else {
            let mut held = self.held.iter().peekable();
            for (index, code) in indices.iter().zip(codes) {
                if held.next_if_eq(&index).is_some() {
                    self.held_codes.push(*code);
                } else {
                    self.rest.push(*index);
                    self.rest_codes.push(*code);
                }
            }
        }
    }

    /// The places that no earlier update holds.
    fn rest<C: Coder>(
        &mut self,
        coders: &mut Streams<C>,
        model: &mut Model,
        walk: &mut Walk,
        tile: &Tile,
        earlier: &Earlier,
    ) {
        for (row, col, holders) in &self.places {
            walk.expect(tile, *row, *col, HINT * u32::from(*holders));
        }
        walk.places(coders, model, tile, &mut self.rest);
        for (row, col, holders) in &self.places {
            walk.forget(tile, *row, *col, HINT * u32::from(*holders));
        }
        for flat in &self.held {
            // All of them are in the tile.
            let past = flat - tile.first;
            walk.expect(tile, past / tile.stride, past % tile.stride, 1);
        }
        if self.rest.iter().any(|flat| earlier.holders[*flat as usize] > 0) {
            coders.columns.refuse();
        }
    }

    fn codes<C: Coder>(
        &mut self,
        coders: &mut Streams<C>,
        (model, shared): (&mut Model, &mut Shared),
        walk: &mut Walk,
        value_bits: u32,
        earlier: &Earlier,
    ) {
        for (flat, code) in self.held.iter().zip(&mut self.held_codes) {
            let before = usize::from(earlier.codes[*flat as usize]);
            let chosen = shared.codes[before].code(&mut coders.codes, usize::from(*code));
            if chosen >> value_bits != 0 {
                coders.codes.refuse();
            }
            *code = (chosen & ((1 << value_bits) - 1)) as u8;
        }
        code_tile(coders, model, walk, value_bits, &mut self.rest_codes);
    }

    /// Both in their order. Where a decoder was refused a place may be there twice.
    fn join(&self, indices: &mut [u32], codes: &mut [u8]) {
        let mut held = self.held.iter().zip(&self.held_codes).peekable();
        let mut rest = self.rest.iter().zip(&self.rest_codes).peekable();
        for (index, code) in indices.iter_mut().zip(codes) {
            let next = match (held.peek(), rest.peek()) {
                (Some((one, _)), Some((other, _))) if one < other => held.next(),
                (Some(_), None) => held.next(),
                (_, _) => rest.next(),
            };
            if let Some((flat, chosen)) = next {
                (*index, *code) = (*flat, *chosen);
            }
        }
    }
}
