//! The embedded node, without starting it: its chain, its wallet's folder, its last backup, and what its channels held when
//! it last ran (or hold now, if it runs in another process).

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::Check;
use super::lightning::{NODE, liquidity};
use crate::cli::DoctorRole;
use crate::clock::{Clock, SystemClock};
use crate::cmd::liquidity::Channels;
use crate::cmd::node::lnd::refuse_folder_of_lnd;
use crate::cmd::{Context, Failure};
use crate::config::ChainConfig;
use crate::ln::embedded::{NodeState, OpenState, WalletLook, WalletSummary, look_at_wallet};
use crate::ln::regtest::client::{Credentials, call_as};
use crate::protocol::amount::Msat;
use crate::protocol::api::RunView;
use crate::protocol::ids::UnixMs;

const CHAIN: &str = "chain";
const WALLET: &str = "wallet";
const BACKUP: &str = "backup";

/// How long a chain source may take to be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A backup older than this is not recent.
const OLD_BACKUP_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// What the node would follow.
enum Chain {
    /// Its process runs it too.
    Own,
    /// Known once its coordinator is.
    Coordinators,
    /// Something that answers JSON-RPC.
    Rpc { name: String, to: Credentials },
    /// Something that listens at `host:port`.
    Server { name: String, address: String },
}

pub(super) async fn check(role: DoctorRole, run: Option<&RunView>, context: &Context, checks: &mut Vec<Check>) {
    match chain(role, run, context) {
        Ok(chain) => match context.blocking(move || Ok(reach(chain))).await {
            Ok(found) => checks.push(found),
            Err(failure) => checks.push(Check::failure(CHAIN, failure)),
        },
        Err(failure) => checks.push(Check::failure(CHAIN, *failure)),
    }
    match look(role, context).await {
        Ok(None) => {
            checks.push(Check::ok(NODE, "embedded LDK, which has no wallet here yet: its first start makes one"));
        }
        Ok(Some(wallet)) => {
            checks.push(node(&wallet));
            checks.extend(holdings(role, run, context, &wallet));
            checks.push(backup(&wallet, SystemClock.now()));
        }
        Err(failure) => checks.push(Check::failure(NODE, failure)),
    }
}

fn chain(role: DoctorRole, run: Option<&RunView>, context: &Context) -> Result<Chain, Box<Failure>> {
    let regtest =
        |address: &str| Chain::Rpc { name: format!("the regtest chain at {address}"), to: Credentials::none(address) };
    Ok(match &context.config.lightning.chain {
        Some(ChainConfig::RegtestRpc { address }) => regtest(address),
        Some(ChainConfig::BitcoindRpc { host, port, user, password_file, .. }) => {
            let password = std::fs::read_to_string(password_file).map_err(|error| {
                let message = format!("the RPC password file {} can't be read: {error}", password_file.display());
                Failure::usage("chain_password", message, "Correct password_file under [lightning.chain]")
            })?;
            let address = format!("{host}:{port}");
            let password = password.trim_end_matches(['\r', '\n']);
            Chain::Rpc { name: format!("bitcoind at {address}"), to: Credentials::of(&address, user, password) }
        }
        Some(ChainConfig::Esplora { url, .. } | ChainConfig::Electrum { url, .. }) => {
            let address = authority(url).ok_or_else(|| {
                let fix = "Write it as https://host/api (Esplora) or ssl://host:port (Electrum)";
                Failure::usage("chain_url", format!("no host can be read from the chain's URL {url:?}"), fix)
            })?;
            Chain::Server { name: url.clone(), address }
        }
        None => match (role, run.map(|run| run.lightning.regtest_rpc.as_deref())) {
            (DoctorRole::Coordinate, _) => Chain::Own,
            (DoctorRole::Peer, None) => Chain::Coordinators,
            (DoctorRole::Peer, Some(Some(address))) => regtest(address),
            (DoctorRole::Peer, Some(None)) => {
                let message = "no chain is configured, and the coordinator's is not a regtest chain of its own";
                let fix = "Name a chain under [lightning.chain] in the configuration";
                return Err(Box::new(Failure::usage("no_chain", message, fix)));
            }
        },
    })
}

/// `host:port` of a URL.
fn authority(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty() && !host.contains('@'))?;
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = match scheme {
        _ if has_port => return Some(host.to_owned()),
        "http" => 80,
        "https" => 443,
        "tcp" => 50_001,
        "ssl" => 50_002,
        _ => return None,
    };
    Some(format!("{host}:{port}"))
}

/// Blocks for some seconds at most.
fn reach(chain: Chain) -> Check {
    let silent = |name: &str, error: &dyn std::fmt::Display| {
        let fix = "Check that it runs and can be reached from here, and what [lightning.chain] says";
        Check::fail(CHAIN, format!("{name} does not answer: {error}"), fix).coded("chain_unreachable")
    };
    match chain {
        Chain::Own => Check::ok(CHAIN, "a regtest chain of its own (coins worth nothing)"),
        Chain::Coordinators => {
            Check::ok(CHAIN, "its coordinator's regtest chain, if that is on this machine; known once it answers")
        }
        Chain::Rpc { name, to } => match call_as(&to, "getblockchaininfo", &serde_json::json!([])) {
            Ok(info) if info["initialblockdownload"].as_bool() == Some(true) => {
                let message = format!("{name} is still catching up, at block {}", info["blocks"]);
                Check::warn(CHAIN, message, "Wait for it: until then payments may seem to be late")
                    .coded("chain_syncing")
            }
            Ok(info) => Check::ok(CHAIN, format!("{name} answers, at block {}", info["blocks"])),
            Err(error) => silent(&name, &error),
        },
        Chain::Server { name, address } => match connect(&address) {
            Ok(()) => Check::ok(CHAIN, format!("{name} can be reached")),
            Err(error) => silent(&name, &error),
        },
    }
}

fn connect(address: &str) -> std::io::Result<()> {
    let mut last = std::io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn look(role: DoctorRole, context: &Context) -> Result<Option<WalletLook>, Failure> {
    let folder = context.data_path(role.data_folder())?.join("lightning");
    refuse_folder_of_lnd(&folder)?;
    let marks = context.config.lightning.state_folder.as_ref().map(|folder| folder.join("wallets"));
    context.blocking(move || Ok(look_at_wallet(&folder, marks.as_deref())?)).await
}

fn node(wallet: &WalletLook) -> Check {
    let who = match &wallet.summary {
        Some(summary) => format!("embedded LDK, node {} on {}", summary.node_id, summary.network),
        None => "embedded LDK, which has not run long enough to say what it holds".into(),
    };
    match (wallet.node, &wallet.obstacle) {
        (NodeState::Running, _) => Check::ok(NODE, format!("{who}; it runs now, in another process")),
        (NodeState::Stopped, Some(error)) => Check::failure(NODE, Failure::of_embedded(error)),
        (NodeState::Stopped, None) => Check::ok(NODE, format!("{who}; it does not run now")),
    }
}

/// What it holds, and whether that suffices.
fn holdings(role: DoctorRole, run: Option<&RunView>, context: &Context, wallet: &WalletLook) -> Vec<Check> {
    let Some(summary) = &wallet.summary else { return Vec::new() };
    let reward = run.map_or(&context.config.run.reward, |run| &run.manifest.body.reward);
    let age = age(SystemClock.now(), summary.as_of);
    let found = format!(
        "{} sat on chain ({} can be sent), {} sat in {} channels, {} sat on the way back from closed ones, at block {}; last \
         change {age} ago",
        summary.on_chain_sat,
        summary.spendable_sat,
        summary.in_channels_sat,
        summary.channels.len(),
        summary.closing_sat,
        summary.block_height
    );
    let mut short = liquidity(role, &channels(wallet.node, summary), reward);
    short.message = match wallet.node {
        NodeState::Running => short.message,
        NodeState::Stopped => format!("when it last ran: {}", short.message),
    };
    vec![Check::ok(WALLET, found), short]
}

/// While the node is stopped, all of its open channels count: whether the other side is there is not known.
fn channels(node: NodeState, summary: &WalletSummary) -> Channels {
    let counts = |state: OpenState| match state {
        OpenState::Opening => false,
        OpenState::Away => node == NodeState::Stopped,
        OpenState::Usable => true,
    };
    let usable = || summary.channels.iter().filter(|channel| counts(channel.state));
    let sum = |amounts: &mut dyn Iterator<Item = Msat>| Msat::checked_sum(amounts).unwrap_or(Msat::MAX_MONEY);
    Channels {
        count: u32::try_from(usable().count()).unwrap_or(u32::MAX),
        outbound: sum(&mut usable().map(|channel| channel.can_send_msat)),
        inbound: sum(&mut usable().map(|channel| channel.can_receive_msat)),
    }
}

fn backup(wallet: &WalletLook, now: UnixMs) -> Check {
    let fix = "Make one with: l402t wallet backup FILE (docs/wallet.md says what it can bring back)";
    match wallet.backup {
        None => Check::warn(BACKUP, "no backup of this wallet was made from here", fix).coded("no_backup"),
        Some(last) => {
            let (behind, age) = (wallet.channel_state.saturating_sub(last.channel_state), age(now, last.made_at));
            let message = format!("the last one is {age} old, {behind} channel states behind");
            match now.0.saturating_sub(last.made_at.0) > OLD_BACKUP_MS {
                true => Check::warn(BACKUP, message, fix).coded("old_backup"),
                false => Check::ok(BACKUP, message),
            }
        }
    }
}

fn age(now: UnixMs, then: UnixMs) -> String {
    let seconds = now.0.saturating_sub(then.0) / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::doctor::Level;
    use crate::ln::embedded::{EmbeddedError, LastBackup};

    fn wallet(node: NodeState) -> WalletLook {
        WalletLook { node, obstacle: None, summary: None, backup: None, channel_state: 9 }
    }

    #[test]
    fn a_node_that_runs_is_well_and_one_that_may_not_start_is_not() {
        assert_eq!(node(&wallet(NodeState::Running)).level, Level::Ok);
        let moved = Some(EmbeddedError::Moved("w".into()));
        let check = node(&WalletLook { obstacle: moved, ..wallet(NodeState::Stopped) });
        assert_eq!((check.level, check.code.as_deref()), (Level::Fail, Some("wallet_moved")));
    }

    #[test]
    fn a_missing_and_an_old_backup_are_told() {
        let now = UnixMs(OLD_BACKUP_MS * 3);
        let made = |made_at| {
            let backup = Some(LastBackup { made_at, channel_state: 4 });
            backup_of(&WalletLook { backup, ..wallet(NodeState::Stopped) }, now)
        };
        assert_eq!(backup_of(&wallet(NodeState::Stopped), now).1.as_deref(), Some("no_backup"));
        assert_eq!(made(UnixMs(1)).1.as_deref(), Some("old_backup"));
        let (recent, code) = made(now);
        assert!(code.is_none() && recent.contains("5 channel states behind"), "{recent}");
    }

    fn backup_of(wallet: &WalletLook, now: UnixMs) -> (String, Option<String>) {
        let check = backup(wallet, now);
        (check.message, check.code)
    }

    #[test]
    fn a_chain_s_address_is_read_from_its_url() {
        for (url, address) in [
            ("https://mempool.example/signet/api", Some("mempool.example:443")),
            ("http://127.0.0.1:3000", Some("127.0.0.1:3000")),
            ("ssl://electrum.example:50002", Some("electrum.example:50002")),
            ("tcp://[::1]", Some("[::1]:50001")),
            ("https:///api", None),
            ("gopher://x", None),
            ("nonsense", None),
        ] {
            assert_eq!(authority(url).as_deref(), address, "{url}");
        }
    }
}
