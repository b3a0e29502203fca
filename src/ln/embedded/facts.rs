//! What a wallet's database remembers about the wallet itself, and whether that lets it start.
//!
//! An old channel state must never reach LDK: LDK would send it out when an HTLC times out, and the other side would take
//! the whole channel as a penalty.

use std::path::Path;

use bitcoin::Network;

use super::EmbeddedError;
use super::marker::Marker;
use super::store::Store;

/// Where the node listened last.
pub(super) const LISTEN: &str = "listen";
/// The network that its coins are on.
pub(super) const NETWORK: &str = "network";
/// `host:port` of the regtest chain that it was last on.
pub(super) const REGTEST_RPC: &str = "regtest_rpc";
/// A peer proved that the channel state is old.
pub(super) const BEHIND: &str = "behind";
/// It was restored from a copy; cleared when the copy turns out to be the newest.
pub(super) const RESTORED: &str = "restored";
/// It was moved out of this folder.
pub(super) const MOVED: &str = "moved";
/// Its chain is to be read from the first block on.
pub(super) const RESCAN: &str = "rescan";
/// How far a recovery is: see `recovery`.
pub(super) const RECOVERY: &str = "recovery";
/// The last backup that was made, as JSON.
pub(super) const BACKUP: &str = "backup";
/// The last summary, as JSON.
pub(super) const SUMMARY: &str = "summary";

/// Where the newest channel state of every wallet is noted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks<'a> {
    /// None where this machine has no place for it.
    pub(super) folder: Option<&'a Path>,
    pub(super) node_id: &'a str,
}

impl Marks<'_> {
    /// The newest channel state that this machine has seen of the wallet.
    pub(super) fn newest(&self) -> Result<Option<u64>, EmbeddedError> {
        self.folder.map_or(Ok(None), |folder| Marker::look(folder, self.node_id))
    }

    /// From now on the store notes its channel states there.
    pub(super) fn attach(&self, store: &Store) -> Result<(), EmbeddedError> {
        match self.folder {
            Some(folder) => {
                let (marker, _) = Marker::open(folder, self.node_id)?;
                store.mark(marker).map_err(|error| unusable(store, &error))
            }
            None => {
                tracing::warn!("an old copy of this wallet would not be noticed: there is no place to note its state");
                Ok(())
            }
        }
    }
}

/// Refuses a wallet whose channel state is or may be old.
pub(super) fn check_may_start(store: &Store, dir: &Path, marks: Marks<'_>) -> Result<(), EmbeddedError> {
    obstacle(store, dir, marks)?;
    if has(store, RESCAN)? {
        // Made from its words: it goes on counting where that ended.
        let held = store.generation().map_err(|error| unusable(store, &error))?;
        let newest = marks.newest()?.unwrap_or_default().max(held);
        return store
            .write_all(&format!("UPDATE generation SET value = {newest}"))
            .map_err(|error| unusable(store, &error));
    }
    if has(store, RESTORED)? {
        // No payment was made since the copy was taken.
        return store.forget_fact(RESTORED).map_err(|error| unusable(store, &error));
    }
    Ok(())
}

/// Why a wallet must not start, if it must not. Changes nothing.
pub(super) fn obstacle(store: &Store, dir: &Path, marks: Marks<'_>) -> Result<(), EmbeddedError> {
    if has(store, MOVED)? {
        return Err(EmbeddedError::Moved(dir.to_path_buf()));
    }
    if has(store, RECOVERY)? {
        return Err(EmbeddedError::Recovering(dir.to_path_buf()));
    }
    if has(store, BEHIND)? {
        return Err(EmbeddedError::Behind(dir.to_path_buf()));
    }
    if has(store, RESCAN)? {
        // Made from its words: it has no channel state that could be old.
        return Ok(());
    }
    let held = store.generation().map_err(|error| unusable(store, &error))?;
    match marks.newest()? {
        Some(newest) if newest > held => Err(EmbeddedError::Stale { folder: dir.to_path_buf(), held, newest }),
        None if has(store, RESTORED)? => Err(EmbeddedError::Restored(dir.to_path_buf())),
        Some(_) | None => Ok(()),
    }
}

fn has(store: &Store, name: &str) -> Result<bool, EmbeddedError> {
    store.fact(name).map(|fact| fact.is_some()).map_err(|error| unusable(store, &error))
}

/// Refuses a wallet of another network, and remembers a new one's.
pub(super) fn check_network(store: &Store, network: Network) -> Result<(), EmbeddedError> {
    let configured = network.to_string();
    match store.fact(NETWORK).map_err(|error| unusable(store, &error))? {
        Some(wallet) if wallet != configured => Err(EmbeddedError::WrongNetwork { wallet, configured }),
        Some(_) => Ok(()),
        None => store.set_fact(NETWORK, &configured).map_err(|error| unusable(store, &error)),
    }
}

/// The database can't be used.
pub(super) fn unusable(store: &Store, error: &rusqlite::Error) -> EmbeddedError {
    EmbeddedError::Store { path: store.path().to_path_buf(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wallet_starts_when_it_is_the_newest_and_is_refused_when_it_may_be_old() {
        let root = tempfile::tempdir().expect("a folder");
        let store = Store::open(root.path()).expect("opens");
        let folder = root.path().join("marks");
        let marks = Marks { folder: Some(&folder), node_id: "02aa" };
        let check = || check_may_start(&store, root.path(), marks);
        store.set_fact(RESTORED, "1").expect("written");
        assert!(matches!(check(), Err(EmbeddedError::Restored(_))), "nothing shows that it is the newest");
        marks.attach(&store).expect("noted");
        check().expect("it is the newest");
        assert_eq!(store.fact(RESTORED).expect("readable"), None);
        Marker::open(&folder, "02aa").expect("there").0.note(1);
        assert!(matches!(check(), Err(EmbeddedError::Stale { held: 0, newest: 1, .. })));
        let other = tempfile::tempdir().expect("a folder");
        let from_words = Store::open(other.path()).expect("opens");
        from_words.set_fact(RESCAN, "1").expect("written");
        check_may_start(&from_words, other.path(), marks).expect("it has no channel state");
        assert_eq!(from_words.generation().expect("readable"), 1);
        for (fact, refused) in [
            (BEHIND, EmbeddedError::Behind(root.path().into())),
            (RECOVERY, EmbeddedError::Recovering(root.path().into())),
            (MOVED, EmbeddedError::Moved(root.path().into())),
        ] {
            store.set_fact(fact, "1").expect("written");
            assert_eq!(check().expect_err("refused").to_string(), refused.to_string());
        }
    }

    #[test]
    fn a_wallet_stays_on_its_network() {
        let root = tempfile::tempdir().expect("a folder");
        let store = Store::open(root.path()).expect("opens");
        check_network(&store, Network::Regtest).expect("a new one");
        check_network(&store, Network::Regtest).expect("the same");
        let refused = check_network(&store, Network::Bitcoin).expect_err("another").to_string();
        assert_eq!(refused, "the wallet is on regtest, and the configured chain is on bitcoin");
    }
}
