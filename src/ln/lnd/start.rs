//! What is asked of LND before it is used, in the order in which one thing is in the way of the next.

use std::time::Duration;

use fedimint_tonic_lnd::lnrpc::{GetInfoRequest, GetInfoResponse};
use fedimint_tonic_lnd::staterpc::WalletState;
use fedimint_tonic_lnd::verrpc::{Version, VersionRequest};

use super::client::{CALL_LIMIT, Client, TIMED_OUT, Trouble, call};
use super::{LndError, permissions};
use crate::ln::bolt11::Network;

/// The oldest LND that is used: since 0.21 it gives an accepted hold invoice back two blocks before it would close the
/// channel over it, with room for a busy chain (18 blocks instead of 12).
const LEAST: (u32, u32) = (0, 21);
const LEAST_TEXT: &str = "0.21";
/// How often, and with which pause, an LND that is starting or syncing is asked again.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// An LND that can be used.
pub(super) struct Checked {
    pub(super) node_id: String,
    pub(super) network: Network,
    pub(super) version: String,
    pub(super) synced_to_graph: bool,
}

/// Goes through everything that may be wrong with a node, and stops at the first thing that is.
pub(super) async fn check(client: &Client) -> Result<Checked, LndError> {
    client.try_connection().await?;
    wallet_is_open(client).await?;
    let version = version(client).await?;
    permissions::check(client).await?;
    let info = synced_info(client).await?;
    let network = network(&info)?;
    Ok(Checked { node_id: info.identity_pubkey, network, version, synced_to_graph: info.synced_to_graph })
}

/// Waits for an LND that was only just started, but for nobody's password.
async fn wallet_is_open(client: &Client) -> Result<(), LndError> {
    let address = || client.address().to_owned();
    let mut waits_for_chain = false;
    for _ in 0..TRIES {
        let answer = call("GetState", CALL_LIMIT, client.wallet_state()).await;
        let state = answer.map_err(|trouble| failed(client, "GetState", trouble))?.state();
        match state {
            WalletState::ServerActive => return Ok(()),
            WalletState::NonExisting => return Err(LndError::NoWallet(address())),
            WalletState::Locked => return Err(LndError::WalletLocked(address())),
            // It answers questions about itself, and nothing else until it has followed the chain.
            WalletState::RpcActive => waits_for_chain = true,
            WalletState::Unlocked | WalletState::WaitingToStart => waits_for_chain = false,
        }
        tokio::time::sleep(PAUSE).await;
    }
    if waits_for_chain {
        let answer = call("GetInfo", CALL_LIMIT, client.lightning().get_info(GetInfoRequest {})).await;
        return Err(LndError::NotSynced { height: answer.map(|info| info.block_height).unwrap_or_default() });
    }
    Err(LndError::Starting(address()))
}

async fn version(client: &Client) -> Result<String, LndError> {
    let answer = call("GetVersion", CALL_LIMIT, client.versioner().get_version(VersionRequest {})).await;
    let version = match answer {
        Ok(version) => version,
        // Told with all that is missing, in a moment.
        Err(Trouble::Denied(_)) => return Ok("of unknown version".into()),
        Err(trouble) => return Err(failed(client, "GetVersion", trouble)),
    };
    new_enough(&version)
}

fn new_enough(version: &Version) -> Result<String, LndError> {
    let found = version.version.split_whitespace().next().unwrap_or("of unknown version").to_owned();
    if (version.app_major, version.app_minor) < LEAST {
        return Err(LndError::TooOld { found, least: LEAST_TEXT });
    }
    Ok(found)
}

/// An LND behind the chain does not know which payments have expired.
async fn synced_info(client: &Client) -> Result<GetInfoResponse, LndError> {
    let mut height = 0;
    for _ in 0..TRIES {
        let answer = call("GetInfo", CALL_LIMIT, client.lightning().get_info(GetInfoRequest {})).await;
        let info = match answer {
            Ok(info) => info,
            Err(Trouble::Refused(reason)) if reason.contains("best block") => return Err(LndError::NoChain(reason)),
            Err(Trouble::NoAnswer(reason)) => return Err(no_answer(client, "GetInfo", reason)),
            Err(trouble) => return Err(failed(client, "GetInfo", trouble)),
        };
        if info.synced_to_chain {
            return Ok(info);
        }
        height = info.block_height;
        tokio::time::sleep(PAUSE).await;
    }
    Err(LndError::NotSynced { height })
}

fn network(info: &GetInfoResponse) -> Result<Network, LndError> {
    let name = info.chains.first().map(|chain| chain.network.as_str()).unwrap_or_default();
    match name {
        "mainnet" => Ok(Network::Bitcoin),
        "testnet" => Ok(Network::Testnet),
        "signet" => Ok(Network::Signet),
        "regtest" => Ok(Network::Regtest),
        other => {
            Err(LndError::Answer { method: "GetInfo", reason: format!("network {other:?}, which is not supported") })
        }
    }
}

/// LND answers GetInfo with what its chain backend says. Where it is silent though it has just said that it is up, the
/// backend is.
pub(super) fn no_answer(client: &Client, method: &str, reason: String) -> LndError {
    match method.ends_with("GetInfo") && reason.starts_with(TIMED_OUT) {
        true => LndError::NoChain(reason),
        false => LndError::Unreachable { address: client.address().to_owned(), reason },
    }
}

fn failed(client: &Client, method: &'static str, trouble: Trouble) -> LndError {
    match trouble {
        Trouble::NoAnswer(reason) => LndError::Unreachable { address: client.address().to_owned(), reason },
        // What LND says of a macaroon that it did not make.
        Trouble::Refused(reason) if reason.contains("verification failed") || reason.contains("macaroon") => {
            LndError::WrongMacaroon(reason)
        }
        Trouble::Refused(reason) => LndError::Answer { method, reason },
        Trouble::Denied(_) => LndError::NotAllowed(vec![method]),
        Trouble::NotFound | Trouble::AlreadyExists => LndError::Answer { method, reason: format!("{trouble:?}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str, app_major: u32, app_minor: u32) -> Version {
        Version { version: text.into(), app_major, app_minor, ..Version::default() }
    }

    #[test]
    fn an_old_lnd_is_refused_with_its_version() {
        for (text, major, minor) in [("0.20.3-beta commit=x", 0, 20), ("0.18.5-beta", 0, 18), ("", 0, 0)] {
            let error = new_enough(&version(text, major, minor)).expect_err("too old");
            assert!(error.to_string().contains("0.21") && error.fix().contains("Upgrade"), "{error}");
        }
        assert_eq!(new_enough(&version("0.21.2-beta commit=x", 0, 21)).expect("new enough"), "0.21.2-beta");
        assert!(new_enough(&version("1.0.0", 1, 0)).is_ok());
    }
}
