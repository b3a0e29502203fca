//! `l402t bounty`: what can be asked, in words.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::protocol::ids::BountyId;

/// `l402t bounty`. Exit codes: 1 the answer is no (not reached, no improvement, can't be posted); 2 the folder, a limit or a claim
/// that can't pay off; 3 the coordinator; 4 a payment; 69 there is no sandbox here.
#[derive(Clone, Debug, Args)]
pub struct BountyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BountyCommand,
}

/// What can be done about bounties.
#[derive(Clone, Debug, Subcommand)]
pub enum BountyCommand {
    /// Show the bounties of a coordinator
    #[command(after_help = "Example: l402t bounty list --coordinator http://127.0.0.1:8402 --json")]
    List(BountyListArgs),
    /// Show one bounty
    #[command(after_help = "Example: l402t bounty show ID --coordinator http://127.0.0.1:8402")]
    Show(BountyIdArgs),
    /// Write a line for every bounty that fits, as they come
    #[command(after_help = "Example: l402t bounty watch --min-reward-sat 1000 --max-fee-sat 20 --json")]
    Watch(BountyWatchArgs),
    /// Download what a bounty gives its agents into a folder of its own, with instructions
    ///
    /// Costs what `show` says the package costs, once (L402): claimed again it costs nothing until the bounty is over. Killed at
    /// any point, the same command goes on without paying twice.
    #[command(after_help = "Example: l402t bounty claim ID --into ./logs")]
    Claim(BountyClaimArgs),
    /// Score a changed workspace on the public items, in the same boxes that decide later
    ///
    /// Exit code 1: it is rejected, or no improvement. Needs a sandbox (bubblewrap): exit code 69 where there is none.
    #[command(after_help = "Example: l402t bounty try ./logs")]
    Try(BountyTryArgs),
    /// Submit the change of a claimed bounty's workspace, and wait for the verdict and the money
    ///
    /// Costs the bounty's fee. Pays if the held-out items score at least what is claimed. Killed at any point, the same command
    /// goes on without paying twice; once all is over, it tells what became of it.
    #[command(after_help = "Example: l402t bounty submit ./logs --claim 19950")]
    Submit(BountySubmitArgs),
    /// Show submissions, and carry on those that are under way
    #[command(after_help = "Example: l402t bounty status ID --json")]
    Status(BountyStatusArgs),
    /// Give up what was begun at a bounty and isn't with the coordinator yet; a fee that was paid is spent
    #[command(after_help = "Example: l402t bounty withdraw ID")]
    Withdraw(BountyIdArgs),
    /// Read a bounty's folder, run its baseline twice and answers that nobody worked for, and say what is in the way
    ///
    /// Exit code 1: it can't be posted as it is. Needs a sandbox (bubblewrap): exit code 69 where there is none.
    #[command(after_help = "Example: l402t bounty check examples/bounties/logs")]
    Check(BountyCheckArgs),
    /// Post a bounty: lock its budget, and wait until it is open
    ///
    /// Killed at any point, the same command goes on without locking anything twice.
    #[command(after_help = "Example: l402t bounty post examples/bounties/logs --coordinator http://127.0.0.1:8402")]
    Post(BountyPostArgs),
    /// Close a bounty of one's own, and get back what nobody earned
    #[command(after_help = "Example: l402t bounty close ID")]
    Close(BountyIdArgs),
}

/// `l402t bounty list`. With `--json` the result is {bounties [{bounty, title, phase, why, direction, baseline, target, best,
/// least_claim, budget_msat, left_msat, paid_msat, fee_msat, submissions, submission_cap, deadline_ms, sponsor, coordinator}]}.
#[derive(Clone, Debug, Args)]
pub struct BountyListArgs {
    /// The coordinator's URL [default: the configured one]
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
}

/// Which bounty. With `--json` the result of `show` is as one of `list`'s, that of `withdraw` {withdrawn [as of `submit`]}, that of
/// `close` as of `post`.
#[derive(Clone, Debug, Args)]
pub struct BountyIdArgs {
    /// The bounty's id
    #[arg(value_name = "ID")]
    pub bounty: BountyId,
    /// The coordinator's URL [default: the configured one]
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
}

/// `l402t bounty watch`. With `--json` a line {event: "bounty", …as one of `list`'s} for each; the result is {found [ID]}.
#[derive(Clone, Debug, Args)]
pub struct BountyWatchArgs {
    /// Only those of whose budget at least so much is left
    #[arg(long, value_name = "SAT", default_value_t = 0)]
    pub min_reward_sat: u64,
    /// Only those whose submissions cost at most so much, without what their route takes [default: the configured limit]
    #[arg(long, value_name = "SAT")]
    pub max_fee_sat: Option<u64>,
    /// None that are marked demo_only (downloads each package to look)
    #[arg(long)]
    pub no_demo: bool,
    /// Write those that fit now, and end
    #[arg(long)]
    pub once: bool,
    /// Time between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: u64,
    /// The coordinator's URL [default: the configured one]
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
}

/// `l402t bounty claim`. With `--json` the result is {folder, workspace, targets [file], package {token, payment_hash, paid_msat,
/// routing_msat}, …as one of `list`'s}; token: `free`, `reused`, `bought`, or
/// `kept` where an earlier run had downloaded it.
#[derive(Clone, Debug, Args)]
pub struct BountyClaimArgs {
    /// The bounty's id
    #[arg(value_name = "ID")]
    pub bounty: BountyId,
    /// Where to; what is there already is never touched [default: bounty-ID in this folder]
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// The most that its package may cost, routing aside: never more than [bounty] max_fee_sat
    #[arg(long, value_name = "SAT")]
    pub max_price: Option<u64>,
    /// Buy another token if the coordinator does not accept the one that was bought from it
    #[arg(long)]
    pub pay_again: bool,
    /// The coordinator's URL [default: the configured one]
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
}

/// `l402t bounty submit`. With `--json` the result is {bounty, contribution, round, claim, state, reason, detail, reward_msat,
/// fee_msat, routing_msat, earlier}; state: `reached`, `rejected`, `waiting`, `fee_unpaid`, `no_ticket`, `missed`.
#[derive(Clone, Debug, Args)]
pub struct BountySubmitArgs {
    /// The folder that `l402t bounty claim` made
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// What the change scores at least: decides what it pays; overclaiming pays nothing
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub claim: String,
    /// The changed workspace [default: DIR/workspace, as the bounty names it]
    #[arg(long, value_name = "FOLDER")]
    pub workspace: Option<PathBuf>,
    /// Submit what was decided before with the same claim once more, for another fee
    #[arg(long)]
    pub again: bool,
    /// The coordinator's URL [default: where it was claimed]
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
}

/// `l402t bounty status`. With `--json` the result is {submissions [as of `submit`]}; the state of one that is under way is how far.
#[derive(Clone, Debug, Args)]
pub struct BountyStatusArgs {
    /// Only this bounty's [default: all]
    #[arg(value_name = "ID")]
    pub bounty: Option<BountyId>,
}

/// `l402t bounty post`. With `--json` the result is {bounty, phase, why, locked_msat, taken_msat, paid_back_msat,
/// earned_msat, folder}.
#[derive(Clone, Debug, Args)]
pub struct BountyPostArgs {
    /// The folder with bounty.toml
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The coordinator's URL [default: the configured one]
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
}

/// `l402t bounty check`. With `--json` the result is {postable, title, metric, demo_only, findings [{level, code, message, fix}],
/// baseline, target, least_improvement, scored_items, canaries, budget_msat, tier, fuel_meter}.
#[derive(Clone, Debug, Args)]
pub struct BountyCheckArgs {
    /// The folder with bounty.toml
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// `l402t bounty try`. With `--json` the result is {improves, reason, detail, score, baseline, least_improvement, would_pay_msat,
/// diff_bytes, items, tier, fuel, fuel_meter}.
#[derive(Clone, Debug, Args)]
pub struct BountyTryArgs {
    /// A folder that `l402t bounty claim` made, or one with a bounty.toml
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// A changed copy of its workspace; only the target files are looked at [default: the claimed folder's own]
    #[arg(long, value_name = "FOLDER")]
    pub workspace: Option<PathBuf>,
}
