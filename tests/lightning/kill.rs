//! kill -9 on a real node that runs in a process of its own, while it holds or sends money.
//!
//! The child is this test binary again, running [`child`] alone, driven by lines on its standard input.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use l402t::ln::embedded::EmbeddedNode;
use l402t::ln::regtest::RegtestChain;
use l402t::ln::{ChannelRequest, ChannelState, InvoiceStatus, Lightning, LnError, PaymentStatus};
use l402t::protocol::amount::Msat;
use l402t::protocol::ids::{PaymentHash, Preimage};

use crate::bench::{CAPACITY_SAT, LIMITS, PUSH, preimage, request, until};
use crate::embedded::{node, regtest};

/// Before what the child answers; the test harness writes to standard output too.
const MARK: &str = ">>> ";
/// Of each kind. More of them find more: each one costs about two seconds.
const KILLS: u8 = 2;
const ANSWER: Duration = Duration::from_secs(30);

/// Not a test: what the child process runs.
#[tokio::test]
#[ignore = "the child process of the tests here"]
async fn child() {
    let mut lines = std::io::stdin().lines().map(|line| line.expect("readable"));
    let mut next = || lines.next();
    let (rpc, dir) = (next().expect("the chain"), PathBuf::from(next().expect("the folder")));
    let trusted = next().expect("the coordinator");
    let trusted: Vec<String> = Some(trusted).filter(|node_id| !node_id.is_empty()).into_iter().collect();
    let node = node(&rpc, dir, &trusted).await;
    let address = node.info().await.expect("up").address.expect("listens");
    answer(&format!("up {} {address}", node.node_id()));
    while let Some(line) = next() {
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let said = match command {
            "fund" => format!("{:?}", node.fund_from_regtest_faucet(rest.parse().expect("sat")).await),
            "open" => {
                let (node_id, address) = rest.split_once(' ').expect("a node and its address");
                let (node_id, address) = (node_id.into(), address.into());
                let request = ChannelRequest { node_id, address, capacity_sat: CAPACITY_SAT, push: PUSH };
                format!("{:?}", node.open_channel(&request).await)
            }
            "channels" => format!("{}", node.info().await.expect("up").usable_channels),
            "hold" => {
                let made = node.create_hold_invoice(rest.parse().expect("a hash"), &request(2_000_000), 144).await;
                made.expect("made")
            }
            "settle" => format!("{:?}", node.settle(parse_preimage(rest)).await),
            "cancel" => format!("{:?}", node.cancel(rest.parse().expect("a hash")).await),
            "pay" => format!("{:?}", node.pay(rest, LIMITS).await),
            "invoice" => format!("{:?}", node.invoice(rest.parse().expect("a hash")).await),
            "payment" => format!("{:?}", node.payment(rest.parse().expect("a hash")).await),
            "sync" => format!("{:?}", node.sync().await),
            other => panic!("unknown command {other}"),
        };
        answer(&said);
    }
}

#[allow(clippy::print_stdout, reason = "the parent reads it")]
fn answer(text: &str) {
    println!("{MARK}{text}");
    std::io::stdout().flush().expect("the parent reads");
}

fn parse_preimage(hex: &str) -> Preimage {
    let hash: PaymentHash = hex.parse().expect("64 hex digits");
    Preimage::from_bytes(*hash.as_bytes())
}

fn preimage_hex(preimage: Preimage) -> String {
    PaymentHash::from_bytes(*preimage.as_bytes()).to_string()
}

/// A node in a process that can be killed.
pub(crate) struct Victim {
    process: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    pub(crate) node_id: String,
    address: String,
}

impl Victim {
    pub(crate) fn start(rpc: &str, dir: &Path, trusted: &str) -> Victim {
        let mut process = Command::new(std::env::current_exe().expect("known"))
            .args(["--exact", "kill::child", "--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let mut input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once(MARK)
                    && sender.send(said.to_string()).is_err()
                {
                    return;
                }
            }
        });
        writeln!(input, "{rpc}\n{}\n{trusted}", dir.display()).expect("written");
        let up = answers.recv_timeout(ANSWER).expect("it came up");
        let words: Vec<&str> = up.split(' ').collect();
        assert_eq!(words[0], "up");
        let (node_id, address) = (words[1].to_string(), words[2].to_string());
        Victim { process, input, answers, node_id, address }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answers.recv_timeout(ANSWER).expect("answered")
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("written");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }
}

/// A coordinator here, a peer there.
struct Duel {
    chain: RegtestChain,
    root: tempfile::TempDir,
    rpc: String,
    coordinator: Arc<EmbeddedNode>,
    victim: Option<Victim>,
    force_closed: u32,
}

impl Duel {
    async fn start() -> Duel {
        let root = tempfile::tempdir().expect("a folder");
        let (chain, rpc) = regtest(&root);
        let coordinator = node(&rpc, root.path().join("coordinator"), &[]).await;
        coordinator.fund_from_regtest_faucet(400_000_000).await.expect("funded");
        let mut victim = Victim::start(&rpc, &root.path().join("victim"), &coordinator.node_id());
        assert_eq!(victim.ask("fund 200000"), "Ok(())");
        let duel = Duel { chain, root, rpc, coordinator, victim: Some(victim), force_closed: 0 };
        duel.open().await;
        duel
    }

    fn victim(&mut self) -> &mut Victim {
        self.victim.as_mut().expect("runs")
    }

    async fn open(&self) {
        let victim = self.victim.as_ref().expect("runs");
        let request = ChannelRequest {
            node_id: victim.node_id.clone(),
            address: victim.address.clone(),
            capacity_sat: CAPACITY_SAT,
            push: PUSH,
        };
        self.coordinator.open_channel(&request).await.expect("opened");
        self.usable().await;
    }

    async fn usable(&self) {
        let node_id = &self.victim.as_ref().expect("runs").node_id;
        until("the channel is usable", async || {
            self.coordinator.channel_state(node_id).await.ok() == Some(ChannelState::Usable)
        })
        .await;
    }

    /// kill -9, and a new process on the same folder.
    async fn kill_and_restart(&mut self) {
        self.victim = None;
        self.victim = Some(Victim::start(&self.rpc, &self.root.path().join("victim"), &self.coordinator.node_id()));
    }

    /// Waits for a payment's end. A channel that the kill force-closed is resolved on chain and replaced.
    async fn end(&mut self, what: &str, ended: impl AsyncFn(&mut Duel) -> bool) {
        let limit = std::iter::repeat_n(Duration::from_millis(20), 1_000);
        for (tries, pause) in limit.enumerate() {
            if ended(self).await {
                return;
            }
            let node_id = self.victim().node_id.clone();
            let gone = self.coordinator.channel_state(&node_id).await.expect("known") == ChannelState::None;
            // An HTLC of a channel that was closed and replaced ends on chain, too.
            if (gone || self.force_closed > 0 && tries > 100) && tries % 10 == 0 {
                self.chain.mine(6).expect("mined");
                self.coordinator.sync().await.expect("synced");
                self.victim().ask("sync");
            }
            tokio::time::sleep(pause).await;
        }
        panic!("waited too long until {what}");
    }

    /// A kill in the middle of an exchange may close the channel, as soon as the two meet again.
    async fn reopen_if_closed(&mut self) {
        let node_id = self.victim().node_id.clone();
        let coordinator = Arc::clone(&self.coordinator);
        until("the channel is usable or closed", async || {
            coordinator.channel_state(&node_id).await.is_ok_and(|state| state != ChannelState::Pending)
        })
        .await;
        if coordinator.channel_state(&node_id).await.expect("known") == ChannelState::None {
            self.force_closed += 1;
            self.chain.mine(6).expect("mined");
            coordinator.sync().await.expect("synced");
            self.victim().ask("sync");
            self.open().await;
        }
    }

    /// The victim holds 2,000 sat of the coordinator's.
    async fn hold(&mut self, tag: u8) -> (Preimage, PaymentHash) {
        let (preimage, hash) = preimage(tag);
        let invoice = self.victim().ask(&format!("hold {hash}"));
        self.coordinator.pay(&invoice, LIMITS).await.expect("taken");
        let ask = format!("invoice {hash}");
        self.end("it is held", async |duel| duel.victim().ask(&ask).contains("Accepted")).await;
        (preimage, hash)
    }

    async fn paid(&mut self, hash: PaymentHash) {
        self.end("the coordinator paid", async |duel| {
            matches!(duel.coordinator.payment(hash).await, Ok(PaymentStatus::Succeeded { .. }))
        })
        .await;
        let ask = format!("invoice {hash}");
        self.end("the victim has it", async |duel| duel.victim().ask(&ask).contains("Settled")).await;
    }

    async fn stop(mut self) -> u32 {
        self.victim = None;
        self.coordinator.stop().await;
        self.force_closed
    }
}

#[tokio::test]
async fn a_payee_killed_while_it_holds_claims_after_its_restart() {
    let mut duel = Duel::start().await;
    for tag in 1..=KILLS {
        let (preimage, hash) = duel.hold(tag).await;
        duel.kill_and_restart().await;
        assert_eq!(duel.victim().ask(&format!("settle {}", preimage_hex(preimage))), "Ok(())");
        duel.paid(hash).await;
        duel.reopen_if_closed().await;
    }
    duel.stop().await;
}

#[tokio::test]
async fn a_payee_killed_right_after_it_took_the_preimage_claims_without_being_told_again() {
    let mut duel = Duel::start().await;
    for tag in 1..=KILLS {
        let (preimage, hash) = duel.hold(tag).await;
        assert_eq!(duel.victim().ask(&format!("settle {}", preimage_hex(preimage))), "Ok(())");
        tokio::time::sleep(Duration::from_millis(u64::from(tag - 1) * 7)).await;
        duel.kill_and_restart().await;
        duel.paid(hash).await;
        duel.reopen_if_closed().await;
    }
    duel.stop().await;
}

#[tokio::test]
async fn a_payee_killed_right_after_it_canceled_still_gives_the_money_back() {
    let mut duel = Duel::start().await;
    for tag in 1..=KILLS {
        let (_, hash) = duel.hold(tag).await;
        assert_eq!(duel.victim().ask(&format!("cancel {hash}")), "Ok(())");
        tokio::time::sleep(Duration::from_millis(u64::from(tag - 1) * 5)).await;
        duel.kill_and_restart().await;
        duel.end("it is back", async |duel| {
            matches!(duel.coordinator.payment(hash).await, Ok(PaymentStatus::Failed { .. }))
        })
        .await;
        assert!(duel.victim().ask(&format!("invoice {hash}")).contains("Canceled"));
        duel.reopen_if_closed().await;
    }
    duel.stop().await;
}

#[tokio::test]
async fn a_payer_killed_at_any_moment_knows_what_became_of_its_payment_and_pays_once() {
    let mut duel = Duel::start().await;
    for tag in 1..=KILLS {
        let (preimage, hash) = preimage(tag);
        let invoice = duel.coordinator.create_hold_invoice(hash, &request(2_000_000), 144).await.expect("made");
        duel.victim().tell(&format!("pay {invoice}"));
        tokio::time::sleep(Duration::from_millis(u64::from(tag - 1) * 6)).await;
        duel.kill_and_restart().await;
        let ask = format!("payment {hash}");
        duel.end("the victim knows its payment", async |duel| {
            let said = duel.victim().ask(&ask);
            !said.contains("Unknown")
        })
        .await;
        // What a caller does after a restart: the same order again.
        duel.reopen_if_closed().await;
        duel.end("the coordinator holds the money", async |duel| {
            assert!(!duel.victim().ask(&format!("pay {invoice}")).contains("Err"));
            matches!(duel.coordinator.invoice(hash).await, Ok(InvoiceStatus::Accepted { amount, .. })
                if amount == Msat::new(2_000_000))
        })
        .await;
        match duel.coordinator.settle(preimage).await {
            Ok(()) | Err(LnError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
        duel.end("the victim paid", async |duel| duel.victim().ask(&ask).contains("Succeeded")).await;
        duel.end("the coordinator has it", async |duel| {
            matches!(duel.coordinator.invoice(hash).await, Ok(InvoiceStatus::Settled { .. }))
        })
        .await;
        duel.reopen_if_closed().await;
    }
    duel.stop().await;
}
