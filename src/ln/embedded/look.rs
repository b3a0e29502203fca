//! What can be known of a wallet without starting its node: it is only read, whether the node runs or not.

use std::fs::{File, TryLockError};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::facts::{self, Marks};
use super::store::{FILE_NAME, Store};
use super::{EmbeddedError, WalletSummary, seed, start};
use crate::protocol::ids::UnixMs;

/// What a wallet's folder shows.
#[derive(Debug)]
pub struct WalletLook {
    /// Whether its node runs now, in another process.
    pub node: NodeState,
    /// Why it would not start, if it would not.
    pub obstacle: Option<EmbeddedError>,
    /// What it held when its node last ran; `None` for one that never did.
    pub summary: Option<WalletSummary>,
    /// The last backup that was made of it from this folder.
    pub backup: Option<LastBackup>,
    /// The number of its newest channel state.
    pub channel_state: u64,
}

/// Whether a wallet's node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Another process has the folder.
    Running,
    /// Nobody has.
    Stopped,
}

/// A backup that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// When.
    pub made_at: UnixMs,
    /// The number of the channel state in it.
    pub channel_state: u64,
}

/// Looks at the wallet in `dir`; `None` where there is none yet. `marks` is where the newest channel states are noted.
///
/// # Errors
/// A seed that is missing or damaged beside a wallet, or a database that can't be read.
pub fn look_at_wallet(dir: &Path, marks: Option<&Path>) -> Result<Option<WalletLook>, EmbeddedError> {
    let held = seed::read(dir)?;
    if !dir.join(FILE_NAME).exists() {
        return Ok(None);
    }
    let held = held.ok_or_else(|| EmbeddedError::SeedMissing(seed::path(dir)))?;
    seed::seed(&held, &seed::path(dir))?;
    let node = node_state(dir)?;
    let store = Store::look(dir)?;
    let fact = |name| store.fact(name).map_err(|error| facts::unusable(&store, &error));
    let summary: Option<WalletSummary> = fact(facts::SUMMARY)?.and_then(|text| serde_json::from_str(&text).ok());
    let backup = fact(facts::BACKUP)?.and_then(|text| serde_json::from_str(&text).ok());
    let channel_state = store.generation().map_err(|error| facts::unusable(&store, &error))?;
    // While it runs it has started, and the number that is noted may be a moment ahead of what was just read.
    let obstacle = match (node, &summary) {
        (NodeState::Running, _) => None,
        (NodeState::Stopped, summary) => {
            let node_id = summary.as_ref().map(|summary| summary.node_id.as_str());
            let marks = Marks { folder: marks.filter(|_| node_id.is_some()), node_id: node_id.unwrap_or_default() };
            facts::obstacle(&store, dir, marks).err()
        }
    };
    Ok(Some(WalletLook { node, obstacle, summary, backup, channel_state }))
}

/// Tries its lock, for an instant: a node that starts then tries again.
fn node_state(dir: &Path) -> Result<NodeState, EmbeddedError> {
    let path = dir.join(start::LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(NodeState::Stopped),
        Err(source) => return Err(EmbeddedError::Disk { action: "read", path, source }),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(NodeState::Stopped),
        Err(TryLockError::WouldBlock) => Ok(NodeState::Running),
        Err(TryLockError::Error(source)) => Err(EmbeddedError::Disk { action: "look at the lock", path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ln::embedded::marker::Marker;

    fn look(dir: &Path, marks: &Path) -> WalletLook {
        look_at_wallet(dir, Some(marks)).expect("readable").expect("a wallet")
    }

    #[test]
    fn a_wallet_is_looked_at_without_a_change_whether_it_runs_or_not() {
        let root = tempfile::tempdir().expect("a folder");
        let (dir, marks) = (root.path().join("lightning"), root.path().join("marks"));
        assert!(look_at_wallet(&dir, None).expect("readable").is_none(), "nothing is there");
        std::fs::create_dir(&dir).expect("made");
        let store = Store::open(&dir).expect("opens");
        assert!(matches!(look_at_wallet(&dir, None), Err(EmbeddedError::SeedMissing(_))));
        drop(store);
        std::fs::remove_file(dir.join(FILE_NAME)).expect("removed");
        seed::load_or_create(&dir, &dir.join(FILE_NAME)).expect("made");
        let store = Store::open(&dir).expect("opens");
        let fresh = look(&dir, &marks);
        assert_eq!((fresh.node, fresh.channel_state), (NodeState::Stopped, 0));
        assert!(fresh.obstacle.is_none() && fresh.summary.is_none() && fresh.backup.is_none());

        let lock = start::lock(&dir).expect("nobody else has it");
        store.set_fact(facts::MOVED, "1").expect("written");
        let running = look(&dir, &marks);
        assert!(running.node == NodeState::Running && running.obstacle.is_none(), "{running:?}");
        drop(lock);
        assert!(matches!(look(&dir, &marks).obstacle, Some(EmbeddedError::Moved(_))));
        assert!(!marks.exists(), "looking writes nothing");
        store.forget_fact(facts::MOVED).expect("written");

        let summary = r#"{"node_id":"02aa","network":"regtest","block_height":1,"on_chain_sat":0,"spendable_sat":0,
            "in_channels_sat":0,"closing_sat":0,"channels":[],"closing":[],"as_of":0}"#;
        store.set_fact(facts::SUMMARY, summary).expect("written");
        Marker::open(&marks, "02aa").expect("made").0.note(7);
        assert!(matches!(look(&dir, &marks).obstacle, Some(EmbeddedError::Stale { held: 0, newest: 7, .. })));
    }
}
