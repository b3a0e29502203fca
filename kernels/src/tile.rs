//! Error feedback in one pass over a run of tiles, row by row as memory lies, and tiles out of that while it is still in the
//! cache.

use crate::fma::Fma;
use crate::isa::dispatch;

/// A rectangle of a row-major tensor.
#[derive(Clone, Copy, Debug)]
pub struct Rectangle {
    /// Of its first value.
    pub first: usize,
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub cols: usize,
    /// From one of its rows to the next.
    pub stride: usize,
}

#[inline(always)]
fn feed_back_body<F: Fma>(decay: f32, feedback: &[f32], values: &mut [f32], rectangle: Rectangle) {
    for row in 0..rectangle.rows {
        let start = rectangle.first + row * rectangle.stride;
        let (own, errors) = (&mut values[start..start + rectangle.cols], &feedback[start..start + rectangle.cols]);
        for (value, error) in own.iter_mut().zip(errors) {
            *value += decay * error;
        }
    }
}

#[inline(always)]
fn gather_body<F: Fma>(values: &[f32], rectangle: Rectangle, tile: &mut Vec<f32>) -> u32 {
    tile.clear();
    let mut largest = 0;
    for row in 0..rectangle.rows {
        let start = rectangle.first + row * rectangle.stride;
        let own = &values[start..start + rectangle.cols];
        largest = own.iter().fold(largest, |largest: u32, value| (value.to_bits() & 0x7fff_ffff).max(largest));
        tile.extend_from_slice(own);
    }
    largest
}

dispatch! {
    /// `value = decay · feedback + value` (rounded twice) for each of the rectangle's values. Panics on a rectangle that isn't
    /// inside both tensors.
    feed_back => feed_back_body, (decay: f32, feedback: &[f32], values: &mut [f32], rectangle: Rectangle)
}
dispatch! {
    /// Copies the rectangle to `tile`, row by row. Returns the bits of the largest magnitude: from 0x7f80_0000 on, not all are
    /// finite. Panics on a rectangle that isn't inside the tensor.
    gather => gather_body, (values: &[f32], rectangle: Rectangle, tile: &mut Vec<f32>) -> u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn a_rectangle_is_fed_back_and_gathered_alike_on_every_instruction_set() {
        let mut rng = crate::tests::Rng(5);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| (rng.next() as i32 as f32) * 1e-9).collect() };
        let (feedback, values) = (draw(20 * 70), draw(20 * 70));
        let rectangle = Rectangle { first: 2 * 70 + 3, rows: 17, cols: 65, stride: 70 };
        for isa in Isa::available() {
            let (mut own, mut tile) = (values.clone(), vec![1.0; 3]);
            feed_back(isa, 0.95, &feedback, &mut own, rectangle);
            let largest = gather(isa, &own, rectangle, &mut tile);
            let mut expected = values.clone();
            let mut gathered = Vec::new();
            for row in 2..19 {
                for at in row * 70 + 3..row * 70 + 68 {
                    expected[at] += 0.95 * feedback[at];
                    gathered.push(expected[at]);
                }
            }
            assert_eq!((&own, &tile), (&expected, &gathered), "{isa}");
            let max = gathered.iter().fold(0.0f32, |max, value| value.abs().max(max));
            assert_eq!(largest, max.to_bits());
        }
    }
}
