//! What a sponsor must not forget of a bounty: a folder for each under `bounties` in the data folder.
//!
//! `posting.json` is there before anybody hears of the bounty: with it the posting can be repeated byte for byte. It has the
//! held-out part and its salt, so it is for this user only.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::peer::error::PeerError;
use crate::peer::folder::write_durably;
use crate::protocol::amount::Msat;
use crate::protocol::api::{PostAnswer, PostRequest};
use crate::protocol::ids::{BountyId, PaymentHash};

const POSTING: &str = "posting.json";
const ANSWER: &str = "answer.json";
const PAY_BACK: &str = "pay-back.json";
const OVER: &str = "over";

/// What was posted, from where and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posting {
    /// The bounty's own folder.
    pub folder: PathBuf,
    /// The coordinator's URL.
    pub coordinator: String,
    /// What is sent.
    pub request: PostRequest,
}

/// The invoice for what is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayBack {
    /// BOLT 11.
    pub invoice: String,
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// For how much.
    pub amount_msat: Msat,
}

/// A bounty that this sponsor has posted, or is about to.
#[derive(Clone, Debug)]
pub struct Record {
    folder: PathBuf,
    posting: Posting,
}

impl Record {
    /// Writes down a posting that nobody has heard of yet. `bounties` is the folder of all of them.
    pub fn create(bounties: &Path, posting: Posting) -> Result<Self, PeerError> {
        let folder = bounties.join(posting.request.posting.body.bounty_id().to_string());
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| PeerError::io("make", &folder, error))?;
        // Reaches the disk with everything above it before the first call goes out.
        for above in [Some(bounties), bounties.parent()].into_iter().flatten() {
            let synced = fs::File::open(above).and_then(|folder| folder.sync_all());
            synced.map_err(|error| PeerError::io("write", above, error))?;
        }
        save(&folder.join(POSTING), &posting)?;
        Ok(Self { folder, posting })
    }

    /// Reads one; `None` where there is none.
    pub fn read(bounties: &Path, bounty: BountyId) -> Result<Option<Self>, PeerError> {
        Self::of(bounties.join(bounty.to_string()))
    }

    fn of(folder: PathBuf) -> Result<Option<Self>, PeerError> {
        let posting: Option<Posting> = load(&folder.join(POSTING))?;
        Ok(posting.map(|posting| Self { folder, posting }))
    }

    /// Every posting whose money is not accounted for yet.
    pub fn unfinished(bounties: &Path) -> Result<Vec<Self>, PeerError> {
        let failed = |error| PeerError::io("read", bounties, error);
        let entries = match fs::read_dir(bounties) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut folders = Vec::new();
        for entry in entries {
            folders.push(entry.map_err(failed)?.path());
        }
        folders.sort();
        let mut records = Vec::new();
        for folder in folders {
            if !folder.join(OVER).exists() {
                records.extend(Self::of(folder)?);
            }
        }
        Ok(records)
    }

    /// What was posted, from where and to whom.
    pub fn posting(&self) -> &Posting {
        &self.posting
    }

    /// What is sent.
    pub fn request(&self) -> &PostRequest {
        &self.posting.request
    }

    /// What the coordinator said, once that has been checked.
    pub fn answer(&self) -> Result<Option<PostAnswer>, PeerError> {
        load(&self.folder.join(ANSWER))
    }

    pub(super) fn save_answer(&self, answer: &PostAnswer) -> Result<(), PeerError> {
        save(&self.folder.join(ANSWER), answer)
    }

    pub(super) fn pay_back(&self) -> Result<Option<PayBack>, PeerError> {
        load(&self.folder.join(PAY_BACK))
    }

    pub(super) fn save_pay_back(&self, pay_back: &PayBack) -> Result<(), PeerError> {
        save(&self.folder.join(PAY_BACK), pay_back)
    }

    /// Nothing is locked, and nothing is owed, any more.
    pub fn save_over(&self) -> Result<(), PeerError> {
        write_durably(&self.folder.join(OVER), b"")
    }
}

fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), PeerError> {
    let bytes = serde_json::to_vec(value).map_err(|error| PeerError::io("write", path, error.into()))?;
    write_durably(path, &bytes)
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PeerError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| PeerError::io("read", path, error))?,
    };
    // What can't be read is never taken for nothing: there may be money locked for it.
    serde_json::from_slice(&bytes).map(Some).map_err(|error| PeerError::io("read", path, error.into()))
}
