//! The bounties of `l402t coordinate`: sandbox, key and folder.

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;

use super::{Context, Failure};
use crate::bounty::judge::BoxedEvaluator;
use crate::bounty::sandbox::{Sandbox, SandboxSettings};
use crate::bounty::scratch::Scratch;
use crate::clock::SystemClock;
use crate::coordinator::bounty::{Board, BoardSettings, BoardSurroundings};
use crate::coordinator::settings::{ChannelSettings, Gate, OpenChannels};
use crate::coordinator::{ChannelGate, Options, RunEvent, SystemEntropy};
use crate::ln::Lightning;
use crate::peer::identity;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{BountyId, PeerId};
use crate::store::database::Unwatched;

/// In the data folder: one folder a bounty, and the key that signs for them.
const FOLDER: &str = "bounties";

/// The bounties of a coordinator, and the folder that their evaluations use.
pub(super) struct Bounties {
    pub(super) board: Arc<Board>,
    /// Who signs for them: sponsors name it in their postings.
    pub(super) coordinator: PeerId,
    _scratch: Scratch,
}

/// Opens the board. Fails where there is no sandbox: nobody is evaluated without one.
pub(super) async fn open(
    context: &Context,
    data: &Path,
    (ln, channel_gate): (Arc<dyn Lightning>, ChannelGate),
    options: Options,
) -> Result<Bounties, Failure> {
    match options.gate {
        Gate::Own => {}
        Gate::Proxy | Gate::ProxyElsewhere => {
            let message = "bounties give fees back, which only a coordinator that takes them itself can do";
            return Err(Failure::usage("bounty_gate", message, "Set gate = \"own\", or run without bounties"));
        }
    }
    let config = &context.config.coordinator.bounties;
    let slots = NonZero::new(config.slots)
        .ok_or_else(|| Failure::usage("slots", "coordinator.bounties.slots = 0", "Set it to 1 or more"))?;
    let least_budget = Msat::from_sat(config.least_budget_sat).ok_or_else(|| {
        Failure::usage("least_budget_sat", "coordinator.bounties.least_budget_sat is more than there is", "Lower it")
    })?;
    let settings = SandboxSettings { slots, ..SandboxSettings::default() };
    let sandbox = context.blocking(move || Ok(Sandbox::detect(settings)?)).await?;
    let place = context.temporary_folder();
    let scratch = Scratch::new(place).map_err(|error| Failure::io("make a folder in", place, &error))?;
    let folder = data.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|error| Failure::io("make the folder", &folder, &error))?;
    let key = identity::load_or_create(&folder)?;
    let coordinator = key.id();
    let around = BoardSurroundings {
        key,
        ln,
        channel_gate,
        evaluator: Arc::new(BoxedEvaluator::new(sandbox, scratch.path())),
        clock: Arc::new(SystemClock),
        observer: Arc::new(Unwatched),
        entropy: Arc::new(SystemEntropy),
    };
    let package_fee = Msat::from_sat(config.package_fee_sat).ok_or_else(|| {
        Failure::usage("package_fee_sat", "coordinator.bounties.package_fee_sat is more than there is", "Lower it")
    })?;
    let options = Options { package_fee, ..without_gifts(options) };
    let settings = BoardSettings { folder, most_bounties: config.most, least_budget, options };
    Ok(Bounties { board: Board::open(settings, around).await?, coordinator, _scratch: scratch })
}

/// Whoever posts costs nothing yet, and a channel's push is a gift: with money that is worth something nobody gets one for that.
fn without_gifts(options: Options) -> Options {
    let open_to_peers = match options.channels.open_to_peers {
        OpenChannels::Always | OpenChannels::OnRegtest => OpenChannels::OnRegtest,
        OpenChannels::Never => OpenChannels::Never,
    };
    Options { channels: ChannelSettings { open_to_peers, ..options.channels }, ..options }
}

/// What people hear of a bounty.
pub(super) fn tell(context: &Context, bounty: &BountyId, event: &RunEvent) {
    context.ui.json(&serde_json::json!({ "bounty": bounty, "news": event }));
    match event {
        RunEvent::BountyOpened { .. } => context.ui.say(format!("bounty {bounty} is open")),
        RunEvent::SubmissionsJudged { contributions, .. } => {
            let reached = contributions.iter().filter(|one| one.outcome == Some("accepted")).count();
            let paid = Msat::checked_sum(contributions.iter().map(|one| one.reward_msat)).unwrap_or(Msat::MAX_MONEY);
            context
                .ui
                .say(format!("bounty {bounty}: {reached} of {} claims reached, {paid} paid", contributions.len()));
        }
        RunEvent::RunFinished { .. } => context.ui.say(format!("bounty {bounty} is over")),
        RunEvent::DiskFull { problem, .. } => context.ui.say(format!("bounty {bounty}: {problem}")),
        RunEvent::RoundOpened { .. }
        | RunEvent::RoundJudging { .. }
        | RunEvent::RoundClosed { .. }
        | RunEvent::DiskFreed => {}
    }
}
