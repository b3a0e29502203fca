//! 32-byte identifiers, each its own type, all written as lower-case hex.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A string that should have been 64 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hex digits, got {0:?}")]
pub struct InvalidHex(String);

fn parse_hex32(text: &str) -> Result<[u8; 32], InvalidHex> {
    let invalid = || InvalidHex(text.chars().take(80).collect());
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(invalid());
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid())?;
    Ok(bytes)
}

macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidHex;
            fn from_str(text: &str) -> Result<Self, InvalidHex> {
                parse_hex32(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&hex::encode(self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! public_bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        bytes32!($(#[$doc])* $name);

        impl $name {
            /// Its first 12 digits, for people.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(self.0))
            }
        }
    };
}

public_bytes32!(
    /// A BLAKE3 digest: of a blob, or of a domain-separated encoding.
    Blake3Hash
);
public_bytes32!(
    /// A run: the digest of its manifest.
    RunId
);
public_bytes32!(
    /// A contribution: the digest of its commitment. Doubles as the ticket's id.
    ContributionId
);
public_bytes32!(
    /// A bounty: the digest of its posting.
    BountyId
);
public_bytes32!(
    /// A peer or a coordinator: a BIP 340 x-only public key.
    PeerId
);
public_bytes32!(
    /// SHA-256 of a preimage (BOLT 2 `payment_hash`).
    PaymentHash
);
bytes32!(
    /// What settles the HTLCs locked to its hash. Its `Debug` shows nothing.
    Preimage
);

impl Blake3Hash {
    /// The digest of `bytes`, as `b3sum` prints it.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of `bytes` under a context string (BLAKE3 `derive_key`), so that a digest made for one purpose
    /// can't stand in for another.
    pub fn derive(context: &'static str, bytes: &[u8]) -> Self {
        Self(blake3::derive_key(context, bytes))
    }
}

impl Preimage {
    /// SHA-256 of the preimage.
    pub fn payment_hash(&self) -> PaymentHash {
        PaymentHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for Preimage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preimage(..)")
    }
}

/// A round's number within its run, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RoundNumber(pub u32);

impl RoundNumber {
    /// The round after this one.
    pub fn next(self) -> RoundNumber {
        RoundNumber(self.0.saturating_add(1))
    }
}

impl fmt::Display for RoundNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A day, in milliseconds.
pub const DAY_MS: u64 = 86_400_000;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// `self + ms`, saturating.
    pub fn plus_ms(self, ms: u64) -> UnixMs {
        UnixMs(self.0.saturating_add(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preimage_never_shows_in_debug_output() {
        let preimage = Preimage::from_bytes([7; 32]);
        assert_eq!(format!("{preimage:?}"), "Preimage(..)");
    }

    #[test]
    fn only_lower_case_hex_of_the_right_length_is_read() {
        let id = Blake3Hash::of(b"");
        assert_eq!(id.to_string().parse::<Blake3Hash>(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<Blake3Hash>().is_err());
        assert!("00".parse::<Blake3Hash>().is_err());
    }

    #[test]
    fn a_payment_hash_is_sha256_of_the_preimage() {
        let hash = Preimage::from_bytes([0; 32]).payment_hash();
        assert_eq!(hash.to_string(), "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925");
    }
}
