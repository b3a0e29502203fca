//! The command line: what can be asked, in words. No logic.

mod bounty;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use bounty::{
    BountyArgs, BountyCheckArgs, BountyClaimArgs, BountyCommand, BountyIdArgs, BountyListArgs, BountyPostArgs,
    BountyStatusArgs, BountySubmitArgs, BountyTryArgs, BountyWatchArgs,
};

use crate::peer::behaviour::Behaviour;
use crate::protocol::ids::BountyId;

/// Train a shared model on anyone's computer, judged to the bit and paid in sats over Lightning.
#[derive(Debug, Parser)]
#[command(name = "l402t", version, max_term_width = 100, after_help = "Start with: l402t demo")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// Print JSON lines on stdout: the last is {"ok","result","error":{"code","message","fix"},"next_actions"}, others are events
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// Configuration file [default: ~/.config/l402t/config.toml if it exists; env: L402T_CONFIG]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data folder [default: ~/.local/share/l402t/<command>; env: L402T_DATA]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// What to log, as in RUST_LOG, for example info or l402t=debug
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "FILTER")]
    pub log: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a coordinator: rounds, judging and rewards
    #[command(
        after_help = "Example: l402t coordinate --config run.toml --data ./coordinator --listen 127.0.0.1:8402\n\n\
                      The model and the corpus (text, JSONL, parquet or token files) are named under [run] in the configuration."
    )]
    Coordinate(CoordinateArgs),
    /// Train round after round for a coordinator, and be paid
    #[command(after_help = "Example: l402t peer --coordinator http://127.0.0.1:8402 --rounds 10")]
    Peer(PeerArgs),
    /// Score one contribution file and print its verdict and digest
    #[command(
        after_help = "Example: l402t validate update.bin --model config.json --checkpoint model.safetensors --held-out held-out.txt"
    )]
    Validate(ValidateArgs),
    /// Look into the judge of this machine: is its arithmetic right, and how fast is it
    #[command(after_help = "Example: l402t judge bench --threads 1")]
    Judge(JudgeArgs),
    /// Recompute a closed round, or a closed bounty, and compare every bit (exit code 1: the first difference is named)
    #[command(
        after_help = "Example: l402t replay 3 --from http://127.0.0.1:8402\nExample: l402t replay bounty ID --from http://127.0.0.1:8402"
    )]
    Replay(ReplayArgs),
    /// Write a run's model as a Hugging Face folder, for transformers and for converters to other formats
    #[command(
        after_help = "Example: l402t export ./my-model --from http://127.0.0.1:8402 --like ./the-model-it-started-from"
    )]
    Export(ExportArgs),
    /// Show every msat that came in, went out or is locked
    #[command(after_help = "Example: l402t ledger --data ./peer")]
    Ledger(LedgerArgs),
    /// Look after the embedded node's money: show, backup, restore, send, close
    #[command(after_help = "Example: l402t wallet show --data ./peer")]
    Wallet(WalletArgs),
    /// Download what a server sells by L402, and pay for it over Lightning: once, however often it is interrupted
    #[command(after_help = "Example: l402t fetch https://example.org/data.bin --max-price 100 --output data.bin")]
    Fetch(FetchArgs),
    /// Bounties: find one, improve its score and be paid; or post one
    #[command(after_help = "Example: l402t bounty list --coordinator http://127.0.0.1:8402")]
    Bounty(BountyArgs),
    /// Bounties for AI agents: a server of the Model Context Protocol on stdin and stdout
    ///
    /// Its tools are bounty_list, bounty_show, bounty_claim, bounty_try, bounty_submit, bounty_status and wallet_balance. The
    /// limits of [bounty] in the configuration bind them, and a submission waits for a person's yes: see [mcp].
    #[cfg(feature = "mcp")]
    #[command(after_help = "Example: l402t mcp --config /home/me/l402t.toml\n\n\
                      In a client's configuration: {\"mcpServers\": {\"l402t\": {\"command\": \"l402t\", \
                      \"args\": [\"mcp\", \"--config\", \"/home/me/l402t.toml\"]}}}")]
    Mcp,
    /// The whole system on this machine: a coordinator, three honest peers, one that cheats and one that copies
    #[command(after_help = "Example: l402t demo --json")]
    Demo(DemoArgs),
    /// A Bitcoin regtest with LND nodes on this machine, for trying things out: it stays up until told otherwise
    #[cfg(feature = "lnd")]
    #[command(
        after_help = "Example: l402t regtest up --peers 2 --tools DIR   (./x regtest up builds btcd and LND first)"
    )]
    Regtest(RegtestArgs),
    /// Check this machine, its configuration and its Lightning node, and say what to mend (exit code 1: something is)
    #[command(after_help = "Example: l402t doctor coordinate")]
    Doctor(DoctorArgs),
    /// Print the OpenAPI description of the coordinator's API
    #[command(after_help = "Example: l402t openapi > openapi.json")]
    Openapi,
}

/// `l402t coordinate`. With `--json` stdout has one event a line: `listening` {url, run, node_id, data}, `round_opened`
/// {round, checkpoint, opened_ms}, `round_closed` {round, loss_before, loss_after, contributions, transcript, …},
/// `run_finished` {rounds}, `stopped`; the result is {finished}.
#[derive(Clone, Debug, Args)]
pub struct CoordinateArgs {
    /// Address to serve the API on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// End after this many rounds
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Judge on the first CUDA device: the same verdicts, sooner
    #[arg(long)]
    pub gpu: bool,
    /// Threads for the judge
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Take bounties on, too; where the configuration names no model to train, nothing but bounties
    #[arg(long)]
    pub bounties: bool,
}

/// What matrix products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// fp32
    F32,
    /// bf16
    Bf16,
}

/// `l402t peer`. With `--json` stdout has one event a line, amounts in msat and times in ms: `registered`,
/// `round_started`, `step`, `ticket`, `locked`, `uploaded`, `verdict`, `settled`, `round_missed`, `finished`
/// (see `peer::events`); the result is what `finished` says.
#[derive(Clone, Debug, Args)]
pub struct PeerArgs {
    /// The coordinator's URL
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
    /// End after this many contributions
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Train on the first CUDA device
    #[arg(long)]
    pub gpu: bool,
    /// Threads for training
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// What matrix products are computed in; bf16 is faster where the hardware knows it
    #[arg(long, value_name = "f32|bf16", hide_possible_values = true)]
    pub precision: Option<Precision>,
    /// Sequences in one forward pass: fewer take less memory [default: the run's]
    #[arg(long, value_name = "N")]
    pub micro_batch: Option<u32>,
    /// Compute activations twice instead of keeping them: slower, in a fraction of the memory
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// What to contribute: honest work, garbage, or copy:DIR (a copy of the peer whose data folder is DIR)
    #[arg(long, value_name = "honest|garbage|copy:DIR", default_value = "honest", hide = true, help_heading = "Demo")]
    pub behaviour: Behaviour,
}

/// `l402t validate`.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// The encoded sparse update
    #[arg(value_name = "UPDATE")]
    pub update: PathBuf,
    /// The model's config.json
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The checkpoint it starts from (safetensors)
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,
    /// Held-out text (UTF-8, byte tokens)
    #[arg(long, value_name = "FILE")]
    pub held_out: PathBuf,
    /// A run's manifest, for its codec and judge settings [default: this version's defaults]
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Judge on the first CUDA device: the same verdict, sooner
    #[arg(long)]
    pub gpu: bool,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
}

/// `l402t judge`.
#[derive(Clone, Debug, Args)]
pub struct JudgeArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: JudgeCommand,
}

/// What can be asked of the judge.
#[derive(Clone, Debug, Subcommand)]
pub enum JudgeCommand {
    /// Measure every instruction set that this machine has, and compare its arithmetic with the known answer
    ///
    /// The known answer is one hash of everything that the judge computes, on fixed inputs. It is the same on every machine:
    /// two strangers who see the same one judge alike. Exit code 1 where it isn't what it should be.
    #[command(after_help = "Example: l402t judge bench --threads 1 --json")]
    Bench(JudgeBenchArgs),
}

/// `l402t judge bench`. With `--json` the result is {threads, known_answer, right, paths [{path, known_answer, right, tokens_per_s,
/// gflop_per_s}]}.
#[derive(Clone, Debug, Args)]
pub struct JudgeBenchArgs {
    /// Threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

/// `l402t replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Which round, or `bounty` and the id of a closed one
    #[arg(value_name = "ROUND")]
    pub what: Replayed,
    /// The bounty, after `bounty`
    #[arg(value_name = "ID")]
    pub bounty: Option<BountyId>,
    /// A coordinator's URL, or a folder with its transcripts and blobs [default: the configured coordinator]
    #[arg(long, value_name = "URL|DIR")]
    pub from: Option<String>,
    /// Judge on the first CUDA device: the same verdict, sooner
    #[arg(long)]
    pub gpu: bool,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
}

/// What is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// A round of training.
    Round(u32),
    /// A bounty.
    Bounty,
}

impl std::str::FromStr for Replayed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bounty" => Ok(Replayed::Bounty),
            number => match number.parse() {
                Ok(round) => Ok(Replayed::Round(round)),
                Err(_) => Err("name a round by its number, or write: bounty ID".to_owned()),
            },
        }
    }
}

/// `l402t export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Where to write it; what is there already is never touched
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Where the run is: a coordinator's URL, or its data folder [default: the configured coordinator]
    #[arg(long, value_name = "URL|DIR")]
    pub from: Option<String>,
    /// The model as it was after this many rounds; 0 is what the run started from [default: all closed ones]
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// How the weights are stored; what is narrower than f32 is rounded
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = ExportDtype::F32)]
    pub dtype: ExportDtype,
    /// Copy tokenizer and generation settings from this Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub like: Option<PathBuf>,
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportDtype {
    /// What the run computes with.
    F32,
    /// Half the bytes, the same range.
    Bf16,
    /// Half the bytes, more precise, up to 65,504.
    F16,
}

/// `l402t ledger`.
#[derive(Clone, Debug, Args)]
pub struct LedgerArgs {
    /// Only this round
    #[arg(long, value_name = "N")]
    pub round: Option<u32>,
}

/// `l402t wallet`. The wallet is the one in the data folder: a peer's unless `--data` names another.
#[derive(Clone, Debug, Args)]
pub struct WalletArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: WalletCommand,
}

/// What can be done with a wallet.
#[derive(Clone, Debug, Subcommand)]
pub enum WalletCommand {
    /// Show balances and channels as they were when the node last looked; it may be running
    #[command(after_help = "Example: l402t wallet show --json")]
    Show,
    /// Show the 24 words that bring back the coins on chain
    #[command(after_help = "Example: l402t wallet words")]
    Words(WordsArgs),
    /// Write seed, channel state and records to one file; the node may be running
    ///
    /// Keep the file as safe as money: it holds the seed, and is not encrypted. With the next payment its channel state is
    /// old: then it no longer brings the channels back as they are, but still gets this side's part of them back.
    #[command(after_help = "Example: l402t wallet backup ~/l402t-wallet.backup")]
    Backup(BackupArgs),
    /// Make a wallet from a backup, or from its words, in an empty data folder; or get the money out of an old one
    #[command(after_help = "Example: l402t wallet restore ~/l402t-wallet.backup --data ./restored")]
    Restore(RestoreArgs),
    /// Send coins on chain; the node must not be running
    #[command(after_help = "Example: l402t wallet send bc1q… all")]
    Send(SendArgs),
    /// Close a channel, so that its money comes back on chain; the node must not be running
    #[command(after_help = "Example: l402t wallet close 0123…")]
    Close(CloseArgs),
}

/// `l402t wallet words`.
#[derive(Clone, Debug, Args)]
pub struct WordsArgs {
    /// Show them even where stdout is not a terminal
    #[arg(long)]
    pub reveal: bool,
}

/// `l402t wallet backup`.
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    /// Where to write it; an older backup of the same wallet is replaced
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Move the wallet into the file: it never starts again here, and goes on, channels and all, where it is restored
    #[arg(long = "move")]
    pub moved: bool,
}

/// `l402t wallet restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// A backup
    #[arg(value_name = "FILE", conflicts_with = "words")]
    pub file: Option<PathBuf>,
    /// Read the 24 words from stdin: the coins on chain come back, channels don't
    #[arg(long, conflicts_with = "seed_only")]
    pub words: bool,
    /// Never use the channel state: have the other nodes close the channels, and claim this side's part of them
    #[arg(long)]
    pub seed_only: bool,
    /// You have looked: the funding of every channel is spent by a confirmed transaction (for Esplora and Electrum)
    #[arg(long, requires = "seed_only")]
    pub channels_are_closed: bool,
}

/// `l402t wallet send`.
#[derive(Clone, Debug, Args)]
pub struct SendArgs {
    /// An address on the wallet's network
    #[arg(value_name = "ADDRESS")]
    pub address: String,
    /// In sat, or all
    #[arg(value_name = "SAT|all")]
    pub amount: String,
}

/// `l402t wallet close`.
#[derive(Clone, Debug, Args)]
pub struct CloseArgs {
    /// As `l402t wallet show` names it
    #[arg(value_name = "CHANNEL")]
    pub channel: String,
    /// Without the other node: dearer, and the money is locked for some hundred blocks
    #[arg(long)]
    pub force: bool,
}

/// `l402t fetch`. Exit codes: 2 the URL or the file, 3 the server, 4 the payment (too expensive, too).
#[derive(Clone, Debug, Args)]
pub struct FetchArgs {
    /// What to download
    #[arg(value_name = "URL")]
    pub url: String,
    /// The most to pay the server, in sat [default: the configured one, 100]
    #[arg(long, value_name = "SAT")]
    pub max_price: Option<u64>,
    /// Where to put it; what is there already is never overwritten [default: the URL's last part, in this folder]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Buy another token even if the server never took the last one
    #[arg(long)]
    pub pay_again: bool,
}

/// `l402t demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Rounds to run
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub rounds: u32,
    /// Show bounties instead: a sponsor posts two, an agent improves them and is paid, five cheats are not. Needs a sandbox
    #[arg(long, conflicts_with_all = ["rounds", "ln", "tools"])]
    pub bounties: bool,
    /// Leave the data folders behind
    #[arg(long)]
    pub keep: bool,
    /// Which Lightning nodes: embedded in each process; lnd: the coordinator and the honest peers on LND, the others
    /// embedded; mixed: the coordinator and one peer on LND
    #[arg(long, value_name = "NODES", value_enum, default_value_t = DemoLightning::Embedded)]
    pub ln: DemoLightning,
    /// The folder with btcd and lnd; `./x demo --ln lnd` builds them and adds this
    #[arg(long, value_name = "DIR")]
    pub tools: Option<PathBuf>,
}

/// Which Lightning nodes a demo runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DemoLightning {
    /// One in each process.
    Embedded,
    /// LND for the coordinator and the honest peers.
    Lnd,
    /// LND for the coordinator and one peer.
    Mixed,
}

/// `l402t regtest`.
#[cfg(feature = "lnd")]
#[derive(Clone, Debug, Args)]
pub struct RegtestArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RegtestCommand,
}

/// What `l402t regtest` can do.
#[cfg(feature = "lnd")]
#[derive(Clone, Debug, Subcommand)]
pub enum RegtestCommand {
    /// Start btcd, a coordinator's LND and its peers' LNDs, with coins and balanced channels, and print how to use them
    Up(RegtestUpArgs),
    /// Stop all of it and remove its folder
    Down,
    /// Show heights, balances and channels (exit code 1: nothing is up)
    Status,
    /// The process that stays
    #[command(hide = true)]
    Keep(RegtestUpArgs),
}

/// `l402t regtest up`. With `--json` the result is {already_up, btcd {rpc, certificate}, bridge, nodes [{name, node_id, files}]}.
#[cfg(feature = "lnd")]
#[derive(Clone, Debug, Args)]
pub struct RegtestUpArgs {
    /// Peers' LNDs, beside the coordinator's
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=16))]
    pub peers: u32,
    /// The folder with btcd and lnd; `./x regtest` builds them and adds this
    #[arg(long, value_name = "DIR")]
    pub tools: PathBuf,
}

/// `l402t doctor`. With `--json` the result is {ready, checks [{name, level: "ok"|"warn"|"fail", message, fix}]}.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// For which command
    #[arg(value_name = "COMMAND", value_enum, default_value = "peer")]
    pub role: DoctorRole,
}

/// What a machine may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DoctorRole {
    /// To train.
    Peer,
    /// To run a coordinator.
    Coordinate,
}

impl DoctorRole {
    /// The name of the command's data folder.
    pub const fn data_folder(self) -> &'static str {
        match self {
            DoctorRole::Peer => "peer",
            DoctorRole::Coordinate => "coordinator",
        }
    }
}
