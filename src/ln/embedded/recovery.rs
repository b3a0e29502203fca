//! Getting the money out of a wallet whose channel state is or may be old, without ever sending that state.
//!
//! First (`closing`) the node runs without any channel state. It connects to the peers it knows; each finds that the
//! channel is unknown here and closes it with *its* newest state. Only when every channel's funding is spent by a
//! confirmed transaction does LDK get the old monitors back (`claiming`), with a new and empty manager: they can't send
//! anything any more, but they know which output is ours. This is what LDK's own panic on an old state asks for. What was
//! in flight is not recovered: the old state doesn't know of it.

use std::path::{Path, PathBuf};

use ldk_node::PendingSweepBalance;

use super::facts::{self, Marks};
use super::settings::{ChainSource, Settings};
use super::start::Mode;
use super::store::Store;
use super::{EmbeddedError, EmbeddedNode, start_in};
use crate::ln::LnError;
use crate::ln::regtest::{RegtestError, client};

const CLOSING: &str = "closing";
const CLAIMING: &str = "claiming";

/// Looks at the balances in a row that must find nothing to wait for: between a monitor's event and the sweep that it
/// starts there is a moment in which neither is listed.
const QUIET_LOOKS: u32 = 5;

/// Every state of a channel, and LDK's list of channels.
const CHANNEL_STATE: &str = "primary_ns IN ('monitors', 'monitor_updates')";
const MANAGER: &str = "primary_ns = '' AND secondary_ns = '' AND name = 'manager'";
/// `PaymentState::Sending` becomes `InFlight`: its channel is gone, so it must not be sent again.
const KEEP_FROM_SENDING: &str = "UPDATE payments SET state = 1 WHERE state = 0";

/// How far a recovery is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryStep {
    /// Waits for peers to close these channels and for the closing to confirm: `txid:vout` of each funding.
    Closing(Vec<String>),
    /// Waits for so many sat to be confirmed in the wallet.
    Claiming {
        /// In sat.
        amount_sat: u64,
    },
    /// The wallet has its coins on chain and no channels; it may start as usual.
    Done,
}

/// How it is known that a funding transaction's output is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The chain source is asked. Esplora and Electrum can't be, yet.
    ChainSource,
    /// Somebody has looked, and says that all of them are spent by confirmed transactions.
    Owner,
}

/// A recovery under way. May be stopped at any time and begun again.
#[derive(Debug)]
pub struct Recovery {
    settings: Settings,
    dir: PathBuf,
    closed_by: ClosedBy,
    node: EmbeddedNode,
    /// Looks that found nothing to wait for.
    quiet: u32,
}

impl Recovery {
    /// Sets the channel state of the wallet in `dir` aside and starts the node without it; or goes on.
    ///
    /// # Errors
    /// No wallet, and as [`EmbeddedNode::start`].
    pub async fn start(settings: &Settings, dir: &Path, closed_by: ClosedBy) -> Result<Self, EmbeddedError> {
        if !super::seed::path(dir).exists() {
            return Err(EmbeddedError::NoWallet(dir.to_path_buf()));
        }
        let node = start_in(settings, dir, Mode::Recovery).await?;
        Ok(Self { settings: settings.clone(), dir: dir.to_path_buf(), closed_by, node, quiet: 0 })
    }

    /// The node that runs without its channels.
    pub fn node(&self) -> &EmbeddedNode {
        &self.node
    }

    /// Does what can be done now. Call it every second or so until it says `Done`.
    ///
    /// # Errors
    /// The chain source or the disk.
    pub async fn step(&mut self) -> Result<RecoveryStep, EmbeddedError> {
        let failed = |error: LnError| EmbeddedError::Node { action: "be recovered", reason: error.to_string() };
        self.node.sync().await.map_err(failed)?;
        let store = std::sync::Arc::clone(&self.node.parts().htlcs.store);
        let unusable = |error| facts::unusable(&store, &error);
        match store.fact(facts::RECOVERY).map_err(unusable)?.as_deref() {
            Some(CLOSING) => {
                let open = self.still_open(&store)?;
                if open.is_empty() {
                    self.restart(&store, &claim()).await?;
                }
                Ok(RecoveryStep::Closing(open))
            }
            Some(_) => {
                let (amount_sat, waits) = self.waits_for().await.map_err(failed)?;
                self.quiet = if waits { 0 } else { self.quiet + 1 };
                if self.quiet < QUIET_LOOKS {
                    return Ok(RecoveryStep::Claiming { amount_sat });
                }
                self.node.stop_and_wait().await;
                store.write_all(&finish()).map_err(unusable)?;
                Ok(RecoveryStep::Done)
            }
            None => Ok(RecoveryStep::Done),
        }
    }

    /// Stops the node; the recovery goes on from there another time.
    pub async fn stop(self) {
        self.node.stop_and_wait().await;
    }

    async fn restart(&mut self, store: &Store, change: &str) -> Result<(), EmbeddedError> {
        self.node.stop_and_wait().await;
        store.write_all(change).map_err(|error| facts::unusable(store, &error))?;
        self.node = start_in(&self.settings, &self.dir, Mode::Recovery).await?;
        Ok(())
    }

    /// Sat that are on their way to the wallet, and whether there is anything to wait for.
    async fn waits_for(&self) -> Result<(u64, bool), LnError> {
        self.node
            .call(|parts| {
                let balances = parts.htlcs.node.list_balances();
                let (mut amount_sat, mut waits) = (balances.total_lightning_balance_sats, false);
                waits |= !balances.lightning_balances.is_empty();
                for sweep in &balances.pending_balances_from_channel_closures {
                    match sweep {
                        PendingSweepBalance::PendingBroadcast { amount_satoshis, .. }
                        | PendingSweepBalance::BroadcastAwaitingConfirmation { amount_satoshis, .. } => {
                            amount_sat += amount_satoshis;
                            waits = true;
                        }
                        // In a block: it counts as the wallet's.
                        PendingSweepBalance::AwaitingThresholdConfirmations { .. } => {}
                    }
                }
                Ok((amount_sat, waits))
            })
            .await
    }

    /// The channels whose funding is not known to be spent.
    fn still_open(&self, store: &Store) -> Result<Vec<String>, EmbeddedError> {
        let mut open = Vec::new();
        for funding in fundings(store).map_err(|error| facts::unusable(store, &error))? {
            if !self.is_spent(&funding)? {
                open.push(funding);
            }
        }
        Ok(open)
    }

    fn is_spent(&self, funding: &str) -> Result<bool, EmbeddedError> {
        if self.closed_by == ClosedBy::Owner {
            return Ok(true);
        }
        let credentials = match &self.settings.chain {
            ChainSource::RegtestRpc { address } => client::Credentials::none(address),
            ChainSource::BitcoindRpc { host, port, user, password_file, .. } => {
                let password = super::start::password(password_file)?;
                client::Credentials::of(&format!("{host}:{port}"), user, &password)
            }
            ChainSource::Esplora { .. } | ChainSource::Electrum { .. } => return Ok(false),
        };
        spent(&credentials, funding).map_err(|error| EmbeddedError::Node {
            action: "ask whether its channels are closed",
            reason: error.to_string(),
        })
    }
}

/// Spent in a block, and by nothing that only waits for one.
fn spent(chain: &client::Credentials, funding: &str) -> Result<bool, RegtestError> {
    let Some((txid, vout)) = funding.split_once(':').and_then(|(txid, vout)| Some((txid, vout.parse::<u32>().ok()?)))
    else {
        return Ok(false);
    };
    let confirmed = client::call_as(chain, "gettxout", &serde_json::json!([txid, vout, false]))?;
    // A funding that waits for its own block isn't spent either.
    let waiting = client::call_as(chain, "gettxout", &serde_json::json!([txid, vout, true]))?;
    Ok(confirmed.is_null() && waiting.is_null())
}

/// `txid:vout` of every channel that was set aside. LDK names a monitor by its funding.
fn fundings(store: &Store) -> rusqlite::Result<Vec<String>> {
    let connection = store.connection();
    let mut query = connection.prepare_cached("SELECT name FROM aside WHERE primary_ns = 'monitors'")?;
    let names = query.query_map([], |row| row.get::<_, String>(0))?;
    names.map(|name| Ok(name?.replacen('_', ":", 1))).collect()
}

/// Before LDK reads the store: nothing in it may let LDK send an old state.
pub(super) fn set_aside(store: &Store, dir: &Path, marks: Marks<'_>) -> Result<(), EmbeddedError> {
    let unusable = |error: &rusqlite::Error| facts::unusable(store, error);
    if store.fact(facts::MOVED).map_err(|error| unusable(&error))?.is_some() {
        return Err(EmbeddedError::Moved(dir.to_path_buf()));
    }
    let sql = match store.fact(facts::RECOVERY).map_err(|error| unusable(&error))?.as_deref() {
        // Only a new and empty manager may meet the old monitors: one that had met them would send their states.
        Some(CLAIMING) => format!("DELETE FROM kv WHERE {MANAGER};"),
        Some(_) | None => begin(store, marks)?,
    };
    store.write_all(&sql).map_err(|error| unusable(&error))
}

fn begin(store: &Store, marks: Marks<'_>) -> Result<String, EmbeddedError> {
    let held = store.generation().map_err(|error| facts::unusable(store, &error))?;
    // From now on this is the newest, and any copy made before is old.
    let next = marks.newest()?.unwrap_or_default().max(held) + 1;
    Ok(format!(
        "INSERT OR REPLACE INTO aside SELECT * FROM kv WHERE {CHANNEL_STATE};
         DELETE FROM kv WHERE {CHANNEL_STATE};
         DELETE FROM kv WHERE {MANAGER};
         {KEEP_FROM_SENDING};
         UPDATE generation SET value = {next};
         INSERT OR REPLACE INTO facts VALUES ('{}', '{CLOSING}');
         DELETE FROM facts WHERE name IN ('{}', '{}');",
        facts::RECOVERY,
        facts::RESTORED,
        facts::BEHIND
    ))
}

fn claim() -> String {
    format!(
        "INSERT OR REPLACE INTO kv SELECT * FROM aside;
         DELETE FROM aside;
         DELETE FROM kv WHERE {MANAGER};
         INSERT OR REPLACE INTO facts VALUES ('{}', '{CLAIMING}');",
        facts::RECOVERY
    )
}

fn finish() -> String {
    format!(
        "DELETE FROM kv WHERE {CHANNEL_STATE};
         DELETE FROM kv WHERE {MANAGER};
         DELETE FROM facts WHERE name = '{}';",
        facts::RECOVERY
    )
}

#[cfg(test)]
mod tests {
    use ldk_node::lightning::util::persist::KVStoreSync;

    use super::super::store::LdkStore;
    use super::*;

    #[test]
    fn no_channel_state_is_left_for_ldk_until_all_channels_are_closed_and_then_no_manager() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("marks");
        let marks = Marks { folder: Some(&folder), node_id: "02aa" };
        let store = LdkStore(std::sync::Arc::new(Store::open(root.path()).expect("opens")));
        let put = |primary, secondary, name| {
            KVStoreSync::write(&store, primary, secondary, name, vec![1]).expect("written");
        };
        let has = |primary, secondary, name| KVStoreSync::read(&store, primary, secondary, name).is_ok();
        put("monitors", "", "ab_1");
        put("monitor_updates", "ab_1", "1");
        put("", "", "manager");
        put("", "", "scorer");
        let newer = super::super::marker::Marker::open(&folder, "02aa").expect("made").0;
        newer.note(70);
        set_aside(&store.0, root.path(), marks).expect("set aside");
        assert_eq!((has("monitors", "", "ab_1"), has("monitor_updates", "ab_1", "1")), (false, false));
        assert_eq!((has("", "", "manager"), has("", "", "scorer")), (false, true));
        assert_eq!(fundings(&store.0).expect("readable"), ["ab:1"]);
        assert_eq!(store.0.generation().expect("readable"), 71, "newer than any copy");
        // Interrupted and begun again, with what a peer may have opened meanwhile.
        put("", "", "manager");
        put("monitors", "", "cd_0");
        set_aside(&store.0, root.path(), marks).expect("set aside");
        assert_eq!((has("", "", "manager"), has("monitors", "", "cd_0")), (false, false));
        assert_eq!(fundings(&store.0).expect("readable"), ["ab:1", "cd:0"]);
        store.0.write_all(&claim()).expect("written");
        put("", "", "manager");
        set_aside(&store.0, root.path(), marks).expect("set aside");
        assert_eq!((has("monitors", "", "ab_1"), has("", "", "manager")), (true, false));
        store.0.write_all(&finish()).expect("written");
        assert_eq!((has("monitors", "", "ab_1"), store.0.fact(facts::RECOVERY).expect("readable")), (false, None));
    }
}
