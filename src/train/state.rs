//! What a peer must not lose between rounds and within one: optimiser moments, error feedback, and snapshots of a round
//! that is under way.
//!
//! Each kind lives in two slot files, written in turn (temporary file, fsync, rename), each with a sequence number and a
//! BLAKE3 of everything before it. Whatever moment the machine stops at, at least one slot is whole; a torn or damaged one
//! is passed over with a warning. Nothing here is secret, and nothing is trusted before its digest is checked.

use std::fs::{self, File};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use super::TrainError;
use crate::protocol::ids::{Blake3Hash, PeerId, RoundNumber, RunId};

const VERSION: u32 = 1;
const DIGEST_BYTES: usize = 32;

/// AdamW's memory. It stays with the peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimiserState {
    /// Steps taken so far, in all rounds.
    pub steps: u64,
    /// (numel), in layout order.
    pub first_moment: Vec<f32>,
    /// (numel), in layout order.
    pub second_moment: Vec<f32>,
}

impl OptimiserState {
    /// Before the first step.
    pub fn new(numel: usize) -> Self {
        Self { steps: 0, first_moment: vec![0.0; numel], second_moment: vec![0.0; numel] }
    }
}

/// What a peer carries from one round to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalState {
    /// The run it belongs to.
    pub run: RunId,
    /// The peer it belongs to.
    pub peer: PeerId,
    /// The last round that it includes.
    pub round: RoundNumber,
    /// The optimiser after that round.
    pub optimiser: OptimiserState,
    /// The error feedback after that round, as its owner encodes it.
    pub error_feedback: Vec<u8>,
}

/// A round's inner loop between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The run.
    pub run: RunId,
    /// The peer.
    pub peer: PeerId,
    /// The round.
    pub round: RoundNumber,
    /// The checkpoint that the round started from.
    pub start: Blake3Hash,
    /// Inner steps taken; the next one's number.
    pub next_step: u32,
    /// The first step's loss in nats.
    pub loss_first_nats: f64,
    /// The last step's loss in nats.
    pub loss_last_nats: f64,
    /// (numel), in layout order.
    pub weights: Vec<f32>,
    /// The optimiser now.
    pub optimiser: OptimiserState,
}

/// Something that a [`StateFile`] keeps.
pub trait Durable: Sized {
    /// Tells kinds apart.
    const MAGIC: [u8; 8];
    /// The value's bytes.
    fn encode(&self, to: &mut Vec<u8>);
    /// Reads them back; `None` if they are not a value's bytes.
    fn decode(from: &mut Reader<'_>) -> Option<Self>;
}

impl Durable for LocalState {
    const MAGIC: [u8; 8] = *b"L402TLST";

    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.run.as_bytes());
        to.extend_from_slice(self.peer.as_bytes());
        to.extend_from_slice(&self.round.0.to_le_bytes());
        put_optimiser(to, &self.optimiser);
        put_bytes(to, &self.error_feedback);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            run: RunId::from_bytes(from.array()?),
            peer: PeerId::from_bytes(from.array()?),
            round: RoundNumber(u32::from_le_bytes(from.array()?)),
            optimiser: get_optimiser(from)?,
            error_feedback: from.bytes()?.to_vec(),
        })
    }
}

impl Durable for Snapshot {
    const MAGIC: [u8; 8] = *b"L402TSNP";

    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.run.as_bytes());
        to.extend_from_slice(self.peer.as_bytes());
        to.extend_from_slice(&self.round.0.to_le_bytes());
        to.extend_from_slice(self.start.as_bytes());
        to.extend_from_slice(&self.next_step.to_le_bytes());
        to.extend_from_slice(&self.loss_first_nats.to_le_bytes());
        to.extend_from_slice(&self.loss_last_nats.to_le_bytes());
        put_floats(to, &self.weights);
        put_optimiser(to, &self.optimiser);
    }

    fn decode(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            run: RunId::from_bytes(from.array()?),
            peer: PeerId::from_bytes(from.array()?),
            round: RoundNumber(u32::from_le_bytes(from.array()?)),
            start: Blake3Hash::from_bytes(from.array()?),
            next_step: u32::from_le_bytes(from.array()?),
            loss_first_nats: f64::from_le_bytes(from.array()?),
            loss_last_nats: f64::from_le_bytes(from.array()?),
            weights: from.floats()?,
            optimiser: get_optimiser(from)?,
        })
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    to.extend_from_slice(bytes);
}

fn put_floats(to: &mut Vec<u8>, floats: &[f32]) {
    to.extend_from_slice(&(4 * floats.len() as u64).to_le_bytes());
    to.extend(floats.iter().flat_map(|value| value.to_le_bytes()));
}

fn put_optimiser(to: &mut Vec<u8>, optimiser: &OptimiserState) {
    to.extend_from_slice(&optimiser.steps.to_le_bytes());
    put_floats(to, &optimiser.first_moment);
    put_floats(to, &optimiser.second_moment);
}

fn get_optimiser(from: &mut Reader<'_>) -> Option<OptimiserState> {
    Some(OptimiserState {
        steps: u64::from_le_bytes(from.array()?),
        first_moment: from.floats()?,
        second_moment: from.floats()?,
    })
}

/// Reads little-endian fields off the front of bytes.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(u64::from_le_bytes(self.array()?)).ok()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn floats(&mut self) -> Option<Vec<f32>> {
        let bytes = self.bytes()?;
        bytes
            .len()
            .is_multiple_of(4)
            .then(|| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

/// Two slot files that hold the latest value and the one before.
#[derive(Debug)]
pub struct StateFile<T> {
    slots: [PathBuf; 2],
    /// What the next value is numbered; its parity picks the slot.
    next_sequence: u64,
    kind: PhantomData<T>,
}

impl<T: Durable> StateFile<T> {
    /// Opens `name.0` and `name.1` in `folder` and returns the latest whole value, if there is one. A damaged slot is
    /// passed over with a warning; a folder that can't be read is an error.
    pub fn open(folder: &Path, name: &str) -> Result<(Self, Option<T>), TrainError> {
        let slots = [0, 1].map(|slot| folder.join(format!("{name}.{slot}")));
        let mut latest: Option<(u64, T)> = None;
        for path in &slots {
            match read_slot(path)? {
                Slot::Empty => {}
                Slot::Damaged => tracing::warn!(
                    "{} is damaged (an interrupted write, or a failing disk): going on without it",
                    path.display()
                ),
                Slot::Whole(sequence, value) => {
                    if latest.as_ref().is_none_or(|(newest, _)| sequence > *newest) {
                        latest = Some((sequence, value));
                    }
                }
            }
        }
        let next_sequence = latest.as_ref().map_or(0, |(sequence, _)| sequence.saturating_add(1));
        Ok((Self { slots, next_sequence, kind: PhantomData }, latest.map(|(_, value)| value)))
    }

    /// Makes `value` the latest, durably: it is read back after any crash from here on. On an error the latest value
    /// stays the one before.
    pub fn save(&mut self, value: &T) -> Result<(), TrainError> {
        let mut bytes = T::MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.next_sequence.to_le_bytes());
        value.encode(&mut bytes);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        let path = &self.slots[(self.next_sequence % 2) as usize];
        replace_file(path, &bytes).map_err(|source| TrainError::State { path: path.clone(), source })?;
        self.next_sequence += 1;
        Ok(())
    }

    /// Removes both slots: a snapshot of a round that is over.
    pub fn clear(&mut self) -> Result<(), TrainError> {
        for path in &self.slots {
            match fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(TrainError::State { path: path.clone(), source }),
            }
        }
        Ok(())
    }
}

enum Slot<T> {
    Empty,
    Damaged,
    Whole(u64, T),
}

fn read_slot<T: Durable>(path: &Path) -> Result<Slot<T>, TrainError> {
    match fs::read(path) {
        Ok(bytes) => Ok(parse_slot(&bytes).map_or(Slot::Damaged, |(sequence, value)| Slot::Whole(sequence, value))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Slot::Empty),
        Err(source) => Err(TrainError::State { path: path.to_owned(), source }),
    }
}

fn parse_slot<T: Durable>(bytes: &[u8]) -> Option<(u64, T)> {
    let (body, digest) = bytes.split_last_chunk::<DIGEST_BYTES>()?;
    if blake3::hash(body) != *digest {
        return None;
    }
    let mut reader = Reader(body);
    if reader.array()? != T::MAGIC || u32::from_le_bytes(reader.array()?) != VERSION {
        return None;
    }
    let sequence = u64::from_le_bytes(reader.array()?);
    let value = T::decode(&mut reader)?;
    reader.0.is_empty().then_some((sequence, value))
}

/// Replaces a file so that a crash leaves either the old or the new one.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_added_extension("tmp");
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // Half a file is worth nothing and may be what fills the disk; the error to tell is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(round: u32) -> LocalState {
        LocalState {
            run: RunId::from_bytes([1; 32]),
            peer: PeerId::from_bytes([2; 32]),
            round: RoundNumber(round),
            optimiser: OptimiserState { steps: 9, first_moment: vec![1.5, -0.0], second_moment: vec![2.5, 1e-40] },
            error_feedback: vec![4, 5, 6],
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            run: RunId::from_bytes([1; 32]),
            peer: PeerId::from_bytes([2; 32]),
            round: RoundNumber(3),
            start: Blake3Hash::of(b"start"),
            next_step: 4,
            loss_first_nats: 5.5,
            loss_last_nats: 5.25,
            weights: vec![0.5; 3],
            optimiser: OptimiserState::new(3),
        }
    }

    fn reopened(folder: &Path) -> Option<LocalState> {
        StateFile::open(folder, "local").expect("readable").1
    }

    #[test]
    fn the_latest_value_is_read_back_and_the_one_before_is_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut file, none) = StateFile::<LocalState>::open(folder.path(), "local").expect("readable");
        assert_eq!(none, None);
        for round in 0..4 {
            file.save(&state(round)).expect("saved");
            assert_eq!(reopened(folder.path()), Some(state(round)));
        }
        fs::remove_file(folder.path().join("local.1")).expect("the latest");
        assert_eq!(reopened(folder.path()), Some(state(2)));
    }

    #[test]
    fn whatever_happens_to_the_latest_slot_the_one_before_is_used() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut file, _) = StateFile::open(folder.path(), "local").expect("readable");
        file.save(&state(0)).expect("saved");
        file.save(&state(1)).expect("saved");
        let latest = folder.path().join("local.1");
        let whole = fs::read(&latest).expect("there");
        for cut in 0..whole.len() {
            fs::write(&latest, &whole[..cut]).expect("torn");
            assert_eq!(reopened(folder.path()), Some(state(0)));
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            fs::write(&latest, &damaged).expect("damaged");
            assert_eq!(reopened(folder.path()), Some(state(0)));
        }
        // The next write goes over the damaged slot, not over the last good one.
        let (mut file, _) = StateFile::open(folder.path(), "local").expect("readable");
        file.save(&state(2)).expect("saved");
        assert_eq!(reopened(folder.path()), Some(state(2)));
        fs::remove_file(&latest).expect("the latest");
        assert_eq!(reopened(folder.path()), Some(state(0)));
    }

    #[test]
    fn two_damaged_slots_are_no_state_and_no_error() {
        let folder = tempfile::tempdir().expect("folder");
        for slot in ["local.0", "local.1"] {
            fs::write(folder.path().join(slot), b"rubbish").expect("written");
        }
        assert_eq!(reopened(folder.path()), None);
    }

    #[test]
    fn a_snapshot_reads_back_until_it_is_cleared_and_is_no_local_state() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut file, _) = StateFile::open(folder.path(), "local").expect("readable");
        file.save(&snapshot()).expect("saved");
        assert_eq!(reopened(folder.path()), None, "another kind of state");
        let (mut file, read) = StateFile::open(folder.path(), "local").expect("readable");
        assert_eq!(read, Some(snapshot()));
        file.clear().expect("cleared");
        file.clear().expect("nothing to clear is fine");
        assert_eq!(StateFile::<Snapshot>::open(folder.path(), "local").expect("readable").1, None);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut file, _) = StateFile::open(folder.path(), "local").expect("readable");
        fs::create_dir(folder.path().join("local.0")).expect("in the way");
        assert!(matches!(file.save(&state(0)), Err(TrainError::State { .. })));
        assert!(!folder.path().join("local.0.tmp").exists());
    }
}
