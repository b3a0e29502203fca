//! Everything secret of a run, derived from one random value: nothing of it can be lost while the database is there.

use std::{fmt, io};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::protocol::ids::{Blake3Hash, ContributionId, Preimage, RoundNumber, RunId, UnixMs};
use crate::protocol::l402::{RootKey, TokenId};

/// Where secrets come from.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// 32 bytes that nobody can guess.
    fn bytes32(&self) -> io::Result<[u8; 32]>;
}

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bytes32(&self) -> io::Result<[u8; 32]> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(bytes)
    }
}

/// The run's secret. Its `Debug` shows nothing.
#[derive(Clone)]
pub(super) struct RunSecret([u8; 32]);

impl fmt::Debug for RunSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunSecret(..)")
    }
}

impl RunSecret {
    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// HMAC-SHA-256 over a purpose and parts, each with its length before it.
    fn derive(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC keys have any length");
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// What settles a tranche.
    pub(super) fn preimage(&self, run: &RunId, round: RoundNumber, id: &ContributionId, tranche: u32) -> Preimage {
        let (round, tranche) = (round.0.to_le_bytes(), tranche.to_le_bytes());
        let parts: [&[u8]; 4] = [run.as_bytes(), &round, id.as_bytes(), &tranche];
        Preimage::from_bytes(self.derive("l402t tranche preimage v1", &parts))
    }

    /// What takes a tranche of a bounty's escrow.
    pub(super) fn escrow_preimage(&self, tranche: u32) -> Preimage {
        Preimage::from_bytes(self.derive("l402t escrow preimage v1", &[&tranche.to_le_bytes()]))
    }

    /// What an evaluation is sealed with.
    pub(super) fn seal(&self, id: &ContributionId) -> Blake3Hash {
        Blake3Hash::from_bytes(self.derive("l402t evaluation seal v1", &[id.as_bytes()]))
    }

    /// What a round's opening commits to.
    pub(super) fn of_round(&self, round: RoundNumber, opened: UnixMs) -> Blake3Hash {
        let (round, opened) = (round.0.to_le_bytes(), opened.0.to_le_bytes());
        Blake3Hash::from_bytes(self.derive("l402t round secret v1", &[&round, &opened]))
    }

    /// What keeps a held-out window's leaf from being guessed.
    pub(super) fn salt(&self, window: u32) -> Blake3Hash {
        Blake3Hash::from_bytes(self.derive("l402t held-out salt v1", &[&window.to_le_bytes()]))
    }

    /// Where the held-out windows are cut from the corpus.
    pub(super) fn split_seed(&self) -> Blake3Hash {
        Blake3Hash::from_bytes(self.derive("l402t held-out split v1", &[]))
    }

    /// What an L402 token is minted with.
    pub(super) fn root_key(&self, token: &TokenId) -> RootKey {
        RootKey::from_bytes(self.derive("l402t token root key v1", &[token.as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tranche_has_its_own_preimage_and_always_the_same() {
        let secret = RunSecret::from_bytes([7; 32]);
        let run = RunId::from_bytes([1; 32]);
        let hash = |round, id, tranche| {
            secret.preimage(&run, RoundNumber(round), &ContributionId::from_bytes([id; 32]), tranche).payment_hash()
        };
        assert_eq!(hash(0, 1, 0), hash(0, 1, 0));
        let all = [hash(0, 1, 0), hash(0, 1, 1), hash(0, 2, 0), hash(1, 1, 0)];
        assert!((0..4).all(|a| (0..a).all(|b| all[a] != all[b])));
    }
}
