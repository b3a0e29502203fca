//! Identity keys and signed envelopes: BIP 340 Schnorr over a domain-separated BLAKE3 digest of canonical JSON.
//!
//! Canonical JSON here is what `serde_json::to_vec` writes for the type: fields in declaration order, no white space,
//! no floats. An envelope that isn't byte for byte canonical is refused, so one statement has one encoding.

use std::fmt;

use secp256k1::{Keypair, SECP256K1, SecretKey, XOnlyPublicKey, schnorr};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ids::{Blake3Hash, PeerId};

/// A statement that can be signed. The context keeps signatures on different kinds of statement apart.
pub trait Statement: Serialize + DeserializeOwned {
    /// BLAKE3 `derive_key` context: `"l402t <kind> v<version>"`.
    const CONTEXT: &'static str;

    /// The digest that is signed and that other statements refer to.
    fn digest(&self) -> Blake3Hash {
        Blake3Hash::derive(Self::CONTEXT, &canonical_json(self))
    }
}

/// The one JSON encoding of a statement.
pub fn canonical_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Statements hold integers, strings, lists and options only: writing them to memory can't fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Why a signed envelope was refused.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The signature doesn't belong to this statement and key.
    #[error("the signature by {0} does not match the statement")]
    Mismatch(PeerId),
    /// Not the JSON of this kind of statement.
    #[error("not a signed statement of the expected kind: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The same content in another encoding.
    #[error("the statement is not in canonical form")]
    NotCanonical,
}

/// A 64-byte BIP 340 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(self.0))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| serde::de::Error::custom("a signature is 128 hex digits"))?;
        Ok(Self(bytes))
    }
}

/// An identity key. Its `Debug` shows the public half only.
#[derive(Clone)]
pub struct IdentityKey(Keypair);

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({})", self.id())
    }
}

impl IdentityKey {
    /// From 32 secret bytes; `None` for the few values that aren't keys.
    pub fn from_secret_bytes(secret: &[u8; 32]) -> Option<Self> {
        let secret = SecretKey::from_slice(secret).ok()?;
        Some(Self(Keypair::from_secret_key(SECP256K1, &secret)))
    }

    /// The public key.
    pub fn id(&self) -> PeerId {
        PeerId::from_bytes(self.0.x_only_public_key().0.serialize())
    }

    /// 32 bytes that only this key's owner can tell, the same ones each time: BLAKE3 keyed for one purpose.
    pub fn secret_for(&self, context: &'static str, message: &[u8]) -> [u8; 32] {
        let key = blake3::derive_key(context, &self.0.secret_bytes());
        *blake3::keyed_hash(&key, message).as_bytes()
    }

    /// Signs a statement (deterministically: no auxiliary randomness).
    pub fn sign<T: Statement>(&self, body: T) -> Signed<T> {
        let message = secp256k1::Message::from_digest(*body.digest().as_bytes());
        let signature = SECP256K1.sign_schnorr_no_aux_rand(&message, &self.0);
        Signed { body, signature: Signature(signature.serialize()) }
    }
}

/// A statement and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    /// What is said.
    pub body: T,
    /// By whom is checked with [`Signed::verify`].
    pub signature: Signature,
}

impl<T: Statement> Signed<T> {
    /// Checks the signature against `signer`.
    pub fn verify(&self, signer: &PeerId) -> Result<&T, SignatureError> {
        let mismatch = || SignatureError::Mismatch(*signer);
        let key = XOnlyPublicKey::from_slice(signer.as_bytes()).map_err(|_| mismatch())?;
        let signature = schnorr::Signature::from_slice(&self.signature.0).map_err(|_| mismatch())?;
        let message = secp256k1::Message::from_digest(*self.body.digest().as_bytes());
        SECP256K1.verify_schnorr(&signature, &message, &key).map_err(|_| mismatch())?;
        Ok(&self.body)
    }

    /// The envelope's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json(self)
    }

    /// Reads an envelope, refusing every encoding but the canonical one. The signature is not checked here.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        let signed: Self = serde_json::from_slice(bytes)?;
        if canonical_json(&signed) != bytes {
            return Err(SignatureError::NotCanonical);
        }
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }

    impl Statement for Note {
        const CONTEXT: &'static str = "l402t test note v1";
    }

    fn key(byte: u8) -> IdentityKey {
        IdentityKey::from_secret_bytes(&[byte; 32]).expect("a valid key")
    }

    #[test]
    fn a_signature_holds_for_its_statement_and_key_only() {
        let signed = key(1).sign(Note { text: "a".into() });
        assert!(signed.verify(&key(1).id()).is_ok());
        assert!(signed.verify(&key(2).id()).is_err());
        let mut forged = signed.clone();
        forged.body.text = "b".into();
        assert!(forged.verify(&key(1).id()).is_err());
    }

    #[test]
    fn a_keys_secret_is_its_own_for_each_purpose_and_message() {
        let made = |byte, context, message: &[u8]| key(byte).secret_for(context, message);
        let first = made(1, "l402t test a v1", b"x");
        assert_eq!(first, made(1, "l402t test a v1", b"x"));
        for other in
            [made(2, "l402t test a v1", b"x"), made(1, "l402t test b v1", b"x"), made(1, "l402t test a v1", b"y")]
        {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn only_the_canonical_encoding_is_read() {
        let signed = key(1).sign(Note { text: "a".into() });
        let bytes = signed.to_bytes();
        assert_eq!(Signed::<Note>::from_bytes(&bytes).expect("canonical"), signed);
        let mut spaced = bytes.clone();
        spaced.insert(1, b' ');
        assert!(matches!(Signed::<Note>::from_bytes(&spaced), Err(SignatureError::NotCanonical)));
    }
}
