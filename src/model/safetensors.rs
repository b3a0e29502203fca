//! The safetensors format: headers read strictly and written in one way, and the widening and narrowing of elements.
//!
//! A header comes from the network or from a stranger's folder: every size is checked against what is really there.

use l402t_kernels::bfloat16;
use serde::Deserialize;

use super::{ModelError, TensorSpec};
use crate::protocol::codec::TensorShape;

/// safetensors pads its header to this.
const ALIGN: usize = 8;
/// A header is about 150 bytes a tensor; this admits the largest model with room to spare.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Bytes before the header: its length.
pub(super) const LENGTH_BYTES: u64 = 8;

/// An element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes.
    #[default]
    F32,
    /// 2 bytes: the upper half of an f32.
    Bf16,
    /// 2 bytes: IEEE binary16.
    F16,
}

impl Dtype {
    const ALL: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

    /// safetensors' name.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::Bf16 => "BF16",
            Dtype::F16 => "F16",
        }
    }

    /// config.json's `dtype` (or `torch_dtype`).
    pub const fn torch_name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
        }
    }

    /// Bytes an element.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// Appends the little-endian elements of `bytes` to `into`. Exact.
    pub(super) fn widen(self, bytes: &[u8], into: &mut Vec<f32>) {
        let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self {
            Dtype::F32 => {
                into.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
            Dtype::Bf16 => into.extend(halves().map(bfloat16::widen)),
            Dtype::F16 => into.extend(halves().map(|half| f32::from_bits(widen_f16(half)))),
        }
    }

    /// Appends `values` to `into`, rounded to nearest even. `Err`: the place of the first that is finite and wouldn't be.
    pub(super) fn narrow(self, values: &[f32], into: &mut Vec<u8>) -> Result<(), usize> {
        for (place, value) in values.iter().enumerate() {
            let half = match self {
                Dtype::F32 => {
                    into.extend_from_slice(&value.to_le_bytes());
                    continue;
                }
                Dtype::Bf16 => narrow_bf16(value.to_bits()),
                Dtype::F16 => narrow_f16(value.to_bits()),
            };
            into.extend_from_slice(&half.ok_or(place)?.to_le_bytes());
        }
        Ok(())
    }
}

/// The bits of the f32 of the same value.
fn widen_f16(half: u16) -> u32 {
    let (sign, exponent, fraction) = (u32::from(half >> 15), u32::from(half >> 10 & 0x1f), u32::from(half & 0x3ff));
    let magnitude = match (exponent, fraction) {
        (0, 0) => 0,
        (0, _) => {
            // Subnormal: fraction · 2⁻²⁴. Its highest bit becomes the implicit one.
            let top = fraction.ilog2();
            (top + 127 - 24) << 23 | (fraction << (23 - top) & 0x007f_ffff)
        }
        (0x1f, _) => 0xff << 23 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    sign << 31 | magnitude
}

/// `None` where the value is not finite any more.
fn narrow_bf16(bits: u32) -> Option<u16> {
    // A carry out of the fraction goes into the exponent, as it should.
    let rounded = bits.checked_add(0x7fff + (bits >> 16 & 1))? >> 16;
    (rounded & 0x7f80 != 0x7f80).then_some(rounded as u16)
}

/// `None` where the value is not finite any more.
fn narrow_f16(bits: u32) -> Option<u16> {
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let exponent = (magnitude >> 23) as i32 - 127;
    // What is cut off, in bits, and what stays: the fraction with its implicit bit where the half is subnormal.
    let (kept, cut) = if exponent >= -14 {
        (magnitude - ((127 - 15) << 23), 13)
    } else if exponent >= -25 {
        (magnitude & 0x007f_ffff | 0x0080_0000, (-exponent - 1) as u32)
    } else {
        return Some(sign);
    };
    let (half, rest, tie) = (kept >> cut, kept & ((1 << cut) - 1), 1 << (cut - 1));
    let up = rest > tie || (rest == tie && half & 1 == 1);
    let half = half + u32::from(up);
    (half < 0x7c00).then_some(sign | half as u16)
}

/// What a header says beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metadata {
    /// Nothing: the canonical file.
    None,
    /// That the tensors are PyTorch's, as transformers writes it.
    PyTorch,
}

/// Length, JSON and padding of a file with these tensors, one after the other.
pub(super) fn header(tensors: &[TensorSpec], dtype: Dtype, metadata: Metadata) -> Vec<u8> {
    let mut json = String::from("{");
    match metadata {
        Metadata::None => {}
        Metadata::PyTorch => json += "\"__metadata__\":{\"format\":\"pt\"}",
    }
    let mut start = 0;
    for tensor in tensors {
        let separator = if json.len() > 1 { "," } else { "" };
        let shape: Vec<String> = shape_of(tensor.shape).iter().map(u64::to_string).collect();
        let end = start + dtype.bytes() * tensor.numel();
        json += &format!(
            "{separator}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{start},{end}]}}",
            tensor.name,
            dtype.name(),
            shape.join(","),
        );
        start = end;
    }
    json.push('}');
    while !json.len().is_multiple_of(ALIGN) {
        json.push(' ');
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes
}

pub(super) fn shape_of(shape: TensorShape) -> Vec<u64> {
    match shape {
        TensorShape::Vector { len } => vec![len.into()],
        TensorShape::Matrix { rows, cols } => vec![rows.into(), cols.into()],
    }
}

/// A tensor as a safetensors header describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    dtype: String,
    shape: Vec<u64>,
    pub(super) data_offsets: [u64; 2],
}

impl Entry {
    /// The element type, if this is a tensor of the spec's shape in as many bytes as it needs.
    pub(super) fn check(&self, spec: &TensorSpec) -> Result<Dtype, ModelError> {
        let [start, end] = self.data_offsets;
        let dtype = Dtype::ALL.into_iter().find(|dtype| dtype.name() == self.dtype);
        let fits = |dtype: &Dtype| {
            self.shape == shape_of(spec.shape)
                && end.checked_sub(start) == Some(dtype.bytes() as u64 * spec.numel() as u64)
        };
        dtype.filter(fits).ok_or_else(|| self.wrong(spec, "F32, BF16 or F16"))
    }

    /// That this is not what the model's tensor should be.
    pub(super) fn wrong(&self, spec: &TensorSpec, dtype: &str) -> ModelError {
        let [start, end] = self.data_offsets;
        let cut = |text: String| text.chars().take(80).collect::<String>();
        ModelError::WrongTensor {
            name: spec.name.clone(),
            found: cut(format!("{} {:?} in {} bytes", self.dtype, self.shape, end.saturating_sub(start))),
            expected: format!("{dtype} {:?}", shape_of(spec.shape)),
        }
    }
}

/// The tensors of a header in ascending order of name, without the optional `__metadata__`.
#[derive(Clone, Debug)]
pub(super) struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesOnce).map(Header)
    }
}

/// A map of entries in which no name comes twice.
struct EntriesOnce;

impl<'de> serde::de::Visitor<'de> for EntriesOnce {
    type Value = Vec<(String, Entry)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map from tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<serde::de::IgnoredAny>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        entries.sort_by(|(a, _): &(String, Entry), (b, _)| a.cmp(b));
        match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(serde::de::Error::custom(format!("tensor {} is there twice", pair[0].0))),
            None => Ok(entries),
        }
    }
}

impl Header {
    /// Reads a header's JSON.
    pub(super) fn parse(json: &[u8]) -> Result<Header, ModelError> {
        serde_json::from_slice(json).map_err(|error| ModelError::Format(error.to_string()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        let place = self.0.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()?;
        self.0.get(place).map(|(_, entry)| entry)
    }

    /// Every byte of data belongs to exactly one tensor.
    pub(super) fn check_coverage(&self, data_bytes: u64) -> Result<(), ModelError> {
        let mut ranges: Vec<[u64; 2]> = self.0.iter().map(|(_, entry)| entry.data_offsets).collect();
        ranges.sort_unstable();
        let mut next = 0;
        for [start, end] in ranges {
            if start != next || end < start {
                let message = format!("a tensor lies at {start}..{end} where {next}.. was expected");
                return Err(ModelError::Format(message));
            }
            next = end;
        }
        if next != data_bytes {
            return Err(ModelError::Format(format!("{data_bytes} bytes of data where the header says {next}")));
        }
        Ok(())
    }
}

/// How long the header is, by a file's first 8 bytes and the bytes in all.
pub(super) fn header_length(first: [u8; LENGTH_BYTES as usize], file_bytes: u64) -> Result<u64, ModelError> {
    let length = u64::from_le_bytes(first);
    if length > MAX_HEADER_BYTES.min(file_bytes.saturating_sub(LENGTH_BYTES)) {
        return Err(ModelError::Format(format!("a header of {length} bytes in a file of {file_bytes}")));
    }
    Ok(length)
}

/// The header of a file in memory, and its data.
pub(super) fn split(bytes: &[u8]) -> Result<(Header, &[u8]), ModelError> {
    let Some((first, rest)) = bytes.split_first_chunk() else {
        return Err(ModelError::Format("shorter than 8 bytes".into()));
    };
    let length = header_length(*first, bytes.len() as u64)?;
    let (json, data) = rest.split_at(length as usize);
    Ok((Header::parse(json)?, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_to_its_value_and_narrows_back() {
        for half in 0..=u16::MAX {
            let mut wide = Vec::new();
            for dtype in [Dtype::F16, Dtype::Bf16] {
                wide.clear();
                dtype.widen(&half.to_le_bytes(), &mut wide);
                let (exponent_bits, fraction_bits) = if dtype == Dtype::F16 { (5, 10) } else { (8, 7) };
                let exponent = i32::from(half >> fraction_bits) & ((1 << exponent_bits) - 1);
                let fraction = f64::from(half & ((1 << fraction_bits) - 1));
                let bias = (1 << (exponent_bits - 1)) - 1;
                let mut narrowed = Vec::new();
                let back = dtype.narrow(&wide, &mut narrowed);
                if exponent == (1 << exponent_bits) - 1 {
                    assert!(!wide[0].is_finite() && wide[0].is_nan() == (fraction > 0.0), "{half:#x}");
                    assert_eq!(back, Err(0));
                    continue;
                }
                let implicit = if exponent == 0 { 0.0 } else { 1.0 };
                let value = (implicit + fraction / f64::from(1 << fraction_bits)) * 2f64.powi(exponent.max(1) - bias);
                let value = if half >> 15 == 1 { -value } else { value };
                assert_eq!(wide[0].to_bits(), (value as f32).to_bits(), "{dtype:?} {half:#x}");
                assert_eq!((back, narrowed), (Ok(()), half.to_le_bytes().to_vec()));
            }
        }
    }

    #[test]
    fn narrowing_rounds_to_nearest_even_and_refuses_to_overflow() {
        let narrow = |dtype: Dtype, value: f32| {
            let mut bytes = Vec::new();
            dtype.narrow(&[value], &mut bytes).map(|()| u16::from_le_bytes([bytes[0], bytes[1]]))
        };
        let ulp = 2f32.powi(-10);
        for (value, expected) in [
            (1.0 + ulp / 2.0, 0x3c00),
            (1.0 + ulp * 1.5, 0x3c02),
            (1.0 + ulp * 0.51, 0x3c01),
            (2.0 - ulp / 4.0, 0x4000),
            (-0.0, 0x8000),
            (2f32.powi(-24), 0x0001),
            (2f32.powi(-25), 0x0000),
            (2f32.powi(-25) * 1.01, 0x0001),
            (2f32.powi(-14) - 2f32.powi(-26), 0x0400),
            (65_504.0, 0x7bff),
            (65_519.0, 0x7bff),
            (1e-30, 0),
        ] {
            assert_eq!(narrow(Dtype::F16, value), Ok(expected), "{value}");
        }
        for value in [65_520.0, -1e6, f32::MAX] {
            assert_eq!(narrow(Dtype::F16, value), Err(0), "{value}");
        }
        assert_eq!(narrow(Dtype::Bf16, f32::from_bits(0x3f80_8000)), Ok(0x3f80));
        assert_eq!(narrow(Dtype::Bf16, f32::from_bits(0x3f81_8000)), Ok(0x3f82));
        assert_eq!(narrow(Dtype::Bf16, f32::MAX), Err(0));
        assert_eq!(narrow(Dtype::Bf16, f32::NAN), Err(0));
    }
}
