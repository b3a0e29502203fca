//! What a seed decides before anything happens: who takes part, what is wrong with everything, how long things take.

use l402t::ln::simulated::Faults;
use l402t::protocol::amount::Ppm;

use crate::dice::Dice;
use crate::life::Fate;

/// What goes wrong between a peer and the coordinator.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WireFaults {
    pub(crate) delay_ms_max: u64,
    pub(crate) requests_lost: u32,
    pub(crate) requests_doubled: u32,
    pub(crate) answers_lost: u32,
}

/// What becomes of a process.
#[derive(Clone, Debug)]
pub(crate) struct ProcessPlan {
    /// The first life's; the later ones have none of its moments.
    pub(crate) fate: Fate,
    /// How long it stays down after a crash.
    pub(crate) down_ms_max: u64,
    /// Its node stops and starts with it (embedded); otherwise the node runs on (LND).
    pub(crate) owns_node: bool,
    /// Its clock is so wrong.
    pub(crate) ahead_ms: i64,
}

impl ProcessPlan {
    fn quiet() -> Self {
        Self { fate: Fate::none(), down_ms_max: 0, owns_node: false, ahead_ms: 0 }
    }
}

/// How a peer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Goes all the way.
    Stays,
    /// Is killed once, at a moment of its own, and never comes back; nor does its node.
    Vanishes,
    /// Can't get its payload through.
    NeverUploads,
}

/// A peer.
#[derive(Clone, Debug)]
pub(crate) struct PeerPlan {
    pub(crate) name: &'static str,
    /// What the judge thinks of its work.
    pub(crate) good: bool,
    pub(crate) manner: Manner,
    pub(crate) process: ProcessPlan,
}

/// A whole simulation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) rounds: u32,
    pub(crate) close_at_contributions: u32,
    pub(crate) commit_ms: u64,
    pub(crate) hold_blocks: u32,
    pub(crate) coordinator: ProcessPlan,
    pub(crate) peers: Vec<PeerPlan>,
    pub(crate) wire: WireFaults,
    pub(crate) lightning: Faults,
    pub(crate) block_ms: u64,
    pub(crate) reorgs: u32,
    pub(crate) node_crashes: u32,
    pub(crate) dawdle: u32,
    pub(crate) shuffle: bool,
    /// When the coordinator's disk is full, and for how long.
    pub(crate) disk_full_ms: Option<(u64, u64)>,
    /// The coordinator opens the channels; otherwise they are there already.
    pub(crate) opens_channels: bool,
}

pub(crate) const PEERS: [&str; 3] = ["ada", "ben", "cho"];

impl Plan {
    /// Nothing goes wrong: a good peer and a bad one, one round.
    pub(crate) fn quiet(seed: u64) -> Self {
        let peer = |name, good| PeerPlan { name, good, manner: Manner::Stays, process: ProcessPlan::quiet() };
        Self {
            seed,
            rounds: 1,
            close_at_contributions: 2,
            commit_ms: 30_000,
            hold_blocks: 144,
            coordinator: ProcessPlan::quiet(),
            peers: vec![peer(PEERS[0], true), peer(PEERS[1], false)],
            wire: WireFaults::default(),
            lightning: Faults::NONE,
            block_ms: 600_000,
            reorgs: 0,
            node_crashes: 0,
            dawdle: 0,
            shuffle: false,
            disk_full_ms: None,
            opens_channels: true,
        }
    }

    /// A guardian that is there for so long gives back in time, unless its calls get lost.
    pub(crate) fn guard_ms(&self) -> u64 {
        let lost = self.lightning.calls_lost != Ppm::ZERO || self.lightning.answers_lost != Ppm::ZERO;
        match (lost, self.dawdle) {
            (true, _) => u64::MAX,
            (false, 0) => 20_000,
            // Three times it did not get on before the next block.
            (false, 1..) => 3 * self.block_ms.max(20_000),
        }
    }

    /// Time passes for so long at most while a coordinator goes from one thing to the next.
    pub(crate) fn slowness_ms(&self) -> u64 {
        if self.dawdle == 0 { 5_000 } else { 60_000 }
    }

    /// Everything that the seed wants to go wrong.
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let dice = &mut dice;
        let mut plan = Self::quiet(seed);
        plan.rounds = dice.between(1, 2) as u32;
        // The longest outlive their locks.
        plan.commit_ms = dice.pick(&[5_000, 20_000, 60_000, 60_000, 400_000]);
        plan.hold_blocks = dice.pick(&[60, 60, 90, 144]);
        plan.block_ms = dice.pick(&[5_000, 15_000, 15_000, 60_000]);
        plan.reorgs = dice.pick(&[0, 100_000, 300_000]);
        plan.dawdle = dice.pick(&[0, 0, 10_000, 100_000]);
        plan.shuffle = dice.happens(800_000);
        plan.opens_channels = dice.happens(500_000);
        plan.node_crashes = dice.pick(&[0, 0, 50_000]);
        plan.wire = WireFaults {
            delay_ms_max: dice.pick(&[0, 50, 2_000]),
            requests_lost: dice.pick(&[0, 50_000, 200_000]),
            requests_doubled: dice.pick(&[0, 200_000]),
            answers_lost: dice.pick(&[0, 50_000, 200_000]),
        };
        let ppm = |parts| Ppm::new(parts).expect("at most a million");
        plan.lightning = Faults {
            delay_steps_max: dice.pick(&[0, 5, 100]),
            events_dropped: ppm(dice.pick(&[0, 300_000])),
            events_duplicated: ppm(dice.pick(&[0, 300_000])),
            answers_lost: ppm(dice.pick(&[0, 20_000, 100_000])),
            calls_lost: ppm(dice.pick(&[0, 20_000, 100_000])),
            status_unknown: ppm(dice.pick(&[0, 0, 50_000, 300_000])),
        };
        plan.coordinator = process(dice);
        let count = dice.between(1, PEERS.len() as u64) as usize;
        plan.peers = PEERS[..count].iter().map(|name| peer(dice, name)).collect();
        plan.close_at_contributions = dice.pick(&[0, count as u32]);
        let full_ms = (dice.between(0, 200_000), dice.pick(&[5_000, 40_000, 300_000]));
        plan.disk_full_ms = dice.happens(150_000).then_some(full_ms);
        plan
    }
}

fn process(dice: &mut Dice) -> ProcessPlan {
    let crash_ppm = dice.pick(&[0, 2_000, 10_000, 30_000]);
    ProcessPlan {
        fate: Fate { crash_ppm, ..Fate::none() },
        down_ms_max: dice.pick(&[100, 10_000, 120_000]),
        owns_node: dice.happens(500_000),
        ahead_ms: dice.between(0, 20_000) as i64 - 10_000,
    }
}

fn peer(dice: &mut Dice, name: &'static str) -> PeerPlan {
    let manner = dice.pick(&[Manner::Stays, Manner::Stays, Manner::Stays, Manner::Vanishes, Manner::NeverUploads]);
    let mut process = process(dice);
    if manner == Manner::Vanishes {
        process.fate = Fate { moments: dice.between(1, 120) as i64, crash_ppm: 0, ..Fate::none() };
    }
    PeerPlan { name, good: dice.happens(700_000), manner, process }
}
