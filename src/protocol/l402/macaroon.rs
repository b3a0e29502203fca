//! Macaroons, version 2 binary, byte for byte as go-macaroon writes them.
//!
//! ```text
//! 02 [01 location] 02 identifier 00 (02 caveat 00)* 00 06 20 signature
//! ```
//! Each field is a type, a varint length and that many bytes; 00 ends a section. Only first-party caveats exist here: a
//! third-party caveat can't be discharged by anyone we know, so it is refused. Knows nothing about what caveats mean.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// The most bytes that a macaroon may have. Ours has about 260; clients may add a few caveats.
pub const MAX_MACAROON_BYTES: usize = 4_096;
/// The most caveats that a macaroon may have.
const MAX_CAVEATS: usize = 32;

const VERSION: u8 = 2;
const FIELD_END: u8 = 0;
const FIELD_LOCATION: u8 = 1;
const FIELD_IDENTIFIER: u8 = 2;
const FIELD_SIGNATURE: u8 = 6;
const SIGNATURE_BYTES: usize = 32;
/// The key that macaroon implementations derive the first signature's key with.
const KEY_GENERATOR: &[u8] = b"macaroons-key-generator";

/// Why bytes are not a macaroon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacaroonError {
    /// Neither standard nor URL-safe base64.
    #[error("the macaroon is not base64")]
    NotBase64,
    /// More than [`MAX_MACAROON_BYTES`].
    #[error("the macaroon has more than {MAX_MACAROON_BYTES} bytes")]
    TooLong,
    /// The bytes end inside a field.
    #[error("the macaroon is cut off")]
    Truncated,
    /// Not version 2 (binary).
    #[error("the macaroon is not of version 2")]
    Version,
    /// A field where another was expected, or a length that isn't in its shortest form.
    #[error("the macaroon has a field out of place at byte {0}")]
    Field(usize),
    /// More caveats than anyone needs.
    #[error("the macaroon has more than {MAX_CAVEATS} caveats")]
    TooManyCaveats,
    /// Bytes after the signature.
    #[error("the macaroon has bytes after its end")]
    Trailing,
}

/// A macaroon. Its signature is half of a bearer credential, so `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Macaroon {
    location: Option<Vec<u8>>,
    identifier: Vec<u8>,
    caveats: Vec<Vec<u8>>,
    signature: [u8; SIGNATURE_BYTES],
}

impl fmt::Debug for Macaroon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Macaroon")
            .field("identifier", &hex::encode(&self.identifier))
            .field("caveats", &self.caveats.iter().map(|c| String::from_utf8_lossy(c)).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Macaroon {
    /// A macaroon without caveats. The location is a hint for people and is not signed.
    pub fn new(root_key: &[u8; 32], identifier: &[u8], location: &str) -> Self {
        Self {
            location: Some(location.as_bytes().to_vec()),
            identifier: identifier.to_vec(),
            caveats: Vec::new(),
            signature: first_signature(root_key, identifier),
        }
    }

    /// Narrows what the macaroon allows. Anyone who holds a macaroon can do this; nobody can undo it.
    #[must_use]
    pub fn with_caveat(mut self, caveat: &str) -> Self {
        self.signature = hmac_sha256(&self.signature, caveat.as_bytes());
        self.caveats.push(caveat.as_bytes().to_vec());
        self
    }

    /// The identifier that the root key signed.
    pub fn identifier(&self) -> &[u8] {
        &self.identifier
    }

    /// The caveats, in the order in which they were added.
    pub fn caveats(&self) -> impl Iterator<Item = &[u8]> {
        self.caveats.iter().map(Vec::as_slice)
    }

    /// The end of the HMAC chain.
    pub fn signature(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.signature
    }

    /// Recomputes the HMAC chain from the root key and compares in constant time.
    pub fn is_signed_by(&self, root_key: &[u8; 32]) -> bool {
        let first = first_signature(root_key, &self.identifier);
        let last = self.caveats.iter().fold(first, |signature, caveat| hmac_sha256(&signature, caveat));
        last.ct_eq(&self.signature).into()
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        if let Some(location) = &self.location {
            put_field(&mut bytes, FIELD_LOCATION, location);
        }
        put_field(&mut bytes, FIELD_IDENTIFIER, &self.identifier);
        bytes.push(FIELD_END);
        for caveat in &self.caveats {
            put_field(&mut bytes, FIELD_IDENTIFIER, caveat);
            bytes.push(FIELD_END);
        }
        bytes.push(FIELD_END);
        put_field(&mut bytes, FIELD_SIGNATURE, &self.signature);
        bytes
    }

    /// The binary form in standard base64, padded: what challenges carry.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.to_bytes())
    }

    /// Reads the binary form. Whatever is accepted is written back as the same bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MacaroonError> {
        if bytes.len() > MAX_MACAROON_BYTES {
            return Err(MacaroonError::TooLong);
        }
        let mut reader = Reader { bytes, at: 0 };
        if reader.byte()? != VERSION {
            return Err(MacaroonError::Version);
        }
        let location = match reader.peek()? {
            FIELD_LOCATION => Some(reader.field(FIELD_LOCATION)?.to_vec()),
            _ => None,
        };
        let identifier = reader.field(FIELD_IDENTIFIER)?.to_vec();
        reader.expect(FIELD_END)?;
        let mut caveats = Vec::new();
        while reader.peek()? != FIELD_END {
            if caveats.len() == MAX_CAVEATS {
                return Err(MacaroonError::TooManyCaveats);
            }
            caveats.push(reader.field(FIELD_IDENTIFIER)?.to_vec());
            reader.expect(FIELD_END)?;
        }
        reader.expect(FIELD_END)?;
        let at = reader.at;
        let signature = reader.field(FIELD_SIGNATURE)?.try_into().map_err(|_| MacaroonError::Field(at))?;
        if reader.at != bytes.len() {
            return Err(MacaroonError::Trailing);
        }
        Ok(Self { location, identifier, caveats, signature })
    }

    /// Reads base64 in the standard or the URL-safe alphabet, padded or not.
    pub fn from_base64(text: &str) -> Result<Self, MacaroonError> {
        if text.len() > MAX_MACAROON_BYTES.div_ceil(3) * 4 {
            return Err(MacaroonError::TooLong);
        }
        let unpadded = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
        let standard: String = unpadded
            .chars()
            .map(|c| match c {
                '-' => '+',
                '_' => '/',
                other => other,
            })
            .collect();
        let bytes = STANDARD_NO_PAD.decode(standard).map_err(|_| MacaroonError::NotBase64)?;
        Self::from_bytes(&bytes)
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    #[allow(clippy::expect_used)]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn first_signature(root_key: &[u8; 32], identifier: &[u8]) -> [u8; 32] {
    hmac_sha256(&hmac_sha256(KEY_GENERATOR, root_key), identifier)
}

fn put_field(bytes: &mut Vec<u8>, field: u8, data: &[u8]) {
    bytes.push(field);
    let mut length = data.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(data);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, MacaroonError> {
        self.bytes.get(self.at).copied().ok_or(MacaroonError::Truncated)
    }

    fn byte(&mut self) -> Result<u8, MacaroonError> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, field: u8) -> Result<(), MacaroonError> {
        let at = self.at;
        if self.byte()? == field { Ok(()) } else { Err(MacaroonError::Field(at)) }
    }

    /// A field of the given type: its data.
    fn field(&mut self, field: u8) -> Result<&'a [u8], MacaroonError> {
        self.expect(field)?;
        let length = self.length()?;
        let end = self.at.checked_add(length).ok_or(MacaroonError::Truncated)?;
        let data = self.bytes.get(self.at..end).ok_or(MacaroonError::Truncated)?;
        self.at = end;
        Ok(data)
    }

    /// A varint below 2¹⁴ in its shortest form: more than any length within [`MAX_MACAROON_BYTES`].
    fn length(&mut self) -> Result<usize, MacaroonError> {
        let at = self.at;
        let low = self.byte()?;
        if low < 0x80 {
            return Ok(usize::from(low));
        }
        match self.byte()? {
            high @ 1..0x80 => Ok(usize::from(low & 0x7f) | usize::from(high) << 7),
            _ => Err(MacaroonError::Field(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::ids::Preimage;

    fn sample() -> Macaroon {
        Macaroon::new(&[1; 32], &[2; 66], "l402").with_caveat("a=1").with_caveat(&"b".repeat(300))
    }

    #[test]
    fn the_golden_vector_stays_what_it_was() {
        let vector: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/l402.json")).expect("json");
        let text = |name: &str| vector[name].as_str().expect("a string").to_owned();
        let preimage = Preimage::from_bytes(hex::decode(text("preimage")).expect("hex").try_into().expect("32 bytes"));
        let token_id = hex::decode(text("token_id")).expect("hex");
        let identifier = [&[0, 0], &preimage.payment_hash().as_bytes()[..], &token_id].concat();
        let root_key = hex::decode(text("root_key")).expect("hex").try_into().expect("32 bytes");
        let caveats = vector["caveats"].as_array().expect("a list").iter().map(|c| c.as_str().expect("a string"));
        let macaroon = caveats
            .fold(Macaroon::new(&root_key, &identifier, &text("location")), |macaroon, c| macaroon.with_caveat(c));

        assert_eq!(hex::encode(macaroon.signature()), text("signature"));
        assert_eq!(macaroon.to_base64(), text("macaroon"));
        assert_eq!(Some(macaroon.to_bytes().len() as u64), vector["bytes"].as_u64());
    }

    #[test]
    fn what_is_written_is_read_back_and_still_signed() {
        let read = Macaroon::from_bytes(&sample().to_bytes()).expect("whole");
        assert_eq!(read, sample());
        assert!(read.is_signed_by(&[1; 32]));
        assert!(!read.is_signed_by(&[3; 32]));
    }

    #[test]
    fn every_flipped_bit_is_refused_or_unsigned() {
        let (bytes, location) = (sample().to_bytes(), 1..7);
        for (i, bit) in (0..bytes.len()).flat_map(|i| (0..8).map(move |bit| (i, bit))) {
            let mut forged = bytes.clone();
            forged[i] ^= 1 << bit;
            if let Ok(macaroon) = Macaroon::from_bytes(&forged) {
                assert!(!macaroon.is_signed_by(&[1; 32]) || location.contains(&i), "bit {bit} of byte {i}");
            }
        }
    }

    #[test]
    fn every_truncation_and_a_longer_tail_are_refused() {
        let bytes = sample().to_bytes();
        for length in 0..bytes.len() {
            assert!(Macaroon::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(Macaroon::from_bytes(&[bytes, vec![0]].concat()), Err(MacaroonError::Trailing));
    }

    #[test]
    fn bounds_hold() {
        assert_eq!(Macaroon::from_bytes(&vec![2; MAX_MACAROON_BYTES + 1]), Err(MacaroonError::TooLong));
        assert_eq!(Macaroon::from_base64(&"A".repeat(100_000)), Err(MacaroonError::TooLong));
        let many = (0..=MAX_CAVEATS).fold(Macaroon::new(&[1; 32], b"id", "l402"), |m, _| m.with_caveat("x=y"));
        assert_eq!(Macaroon::from_bytes(&many.to_bytes()), Err(MacaroonError::TooManyCaveats));
    }

    #[test]
    fn base64_is_read_in_both_alphabets_padded_or_not() {
        let macaroon = Macaroon::new(&[1; 32], &[0xff, 0xfe, 0xfb], "");
        let padded = macaroon.to_base64();
        assert!(padded.contains(['+', '/']), "the sample needs both alphabets: {padded}");
        let url_safe = padded.replace('+', "-").replace('/', "_");
        for text in [&padded, padded.trim_end_matches('='), &url_safe, url_safe.trim_end_matches('=')] {
            assert_eq!(Macaroon::from_base64(text).as_ref(), Ok(&macaroon));
        }
        assert_eq!(Macaroon::from_base64("a b"), Err(MacaroonError::NotBase64));
        assert_eq!(Macaroon::from_base64(""), Err(MacaroonError::Truncated));
    }

    #[test]
    fn the_signature_never_shows_in_debug_output() {
        assert!(!format!("{:?}", sample()).contains(&hex::encode(sample().signature())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_same_bytes_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let framed = [&[2u8, 2, 1, 7, 0][..], &bytes].concat();
            for input in [bytes, framed] {
                if let Ok(macaroon) = Macaroon::from_bytes(&input) {
                    prop_assert_eq!(macaroon.to_bytes(), input);
                }
            }
        }
    }
}
