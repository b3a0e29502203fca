//! A crash at every commit and around every call to the node: whatever had happened by then, the round ends right.

use l402t::protocol::amount::Msat;

use crate::fuse::Fuse;
use crate::peer::{Manner, Peer};
use crate::world::{COORDINATOR, World};

/// One accepted contribution's reward, and the fee of each.
const REWARD: u64 = 600_000;
const FEE: u64 = 5_000;
/// A scenario that takes more turns than this is stuck.
const MAX_TURNS: u32 = 500;

fn world() -> World {
    let mut world = World::new();
    world.settings.timing.close_at_contributions = 2;
    world
}

/// Plays a whole round with a coordinator that dies when the fuse blows and is started again. Says how many moments
/// there were.
async fn survive(fuse: std::sync::Arc<Fuse>) -> u64 {
    let world = world();
    let mut peers = [
        Peer::new(&world, "alice", b"good work", Manner::Honest),
        Peer::new(&world, "bob", b"bad work", Manner::Honest),
    ];
    let total = world.network.total_msat();
    let (mut current, mut deaths) = (std::sync::Arc::clone(&fuse), 0);
    let mut coordinator = None;
    let mut finished = false;
    for _ in 0..MAX_TURNS {
        if current.is_blown() {
            assert_eq!(deaths, 0, "the second life has no fuse");
            deaths += 1;
            coordinator = None;
            current = Fuse::never();
        }
        if coordinator.is_none() {
            coordinator = world.open(&current).await.ok();
        }
        let Some(alive) = coordinator.as_mut() else {
            assert!(current.is_blown(), "only a crash keeps it from opening");
            continue;
        };
        let mut moved = match alive.step().await {
            Ok(()) => false,
            Err(error) => {
                assert!(current.is_blown(), "{error}");
                continue;
            }
        };
        if alive.is_finished() {
            finished = true;
            break;
        }
        let handle = alive.handle();
        for peer in &mut peers {
            match peer.act(&*handle).await {
                Ok(acted) => moved |= acted,
                Err(refusal) => {
                    assert!(refusal.error.code == "unavailable" && current.is_blown(), "{refusal}");
                    break;
                }
            }
        }
        drop(handle);
        // A little time passes, but never so much that a deadline would decide.
        world.clock.advance_ms(1);
        tokio::time::sleep(std::time::Duration::from_micros(if moved { 100 } else { 500 })).await;
    }
    assert!(finished, "stuck");
    drop(coordinator);

    // Nobody is left with a tranche to claim or to give back, and everything is where it should be.
    assert_eq!(world.network.total_msat(), total);
    let books = world.books();
    assert_eq!(books.rewards_settled_msat, Msat::new(REWARD));
    assert_eq!(books.rewards_refunded_msat, Msat::new(REWARD));
    assert_eq!(books.rewards_locked_msat, Msat::ZERO);
    assert_eq!(books.fees_received_msat, Msat::new(2 * FEE));
    let pushed = 2 * 100_000_000;
    let owned = world.network.balance(COORDINATOR);
    assert_eq!(owned, Msat::new(10_000_000_000 - pushed + 2 * FEE - REWARD), "paid twice, or not at all");
    assert_eq!(world.transcript(0).body.contributions.len(), 2);
    let aggregates =
        std::fs::read_dir(world.data().join("aggregates")).expect("there").map(|file| file.expect("read").path());
    let aggregates: Vec<_> = aggregates.map(|path| std::fs::read(path).expect("read")).collect();
    assert_eq!(aggregates, [b"aggregate"], "half of one, or something left behind");
    fuse.moments()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_changes_nothing_in_the_end() {
    let moments = survive(Fuse::never()).await;
    assert!(moments > 100, "the scenario has {moments} moments only");
    // Most of the time goes into waiting for the disk.
    let lives = (1..=moments).map(|moment| tokio::spawn(survive(Fuse::after(moment as i64))));
    for (life, moment) in futures_util::future::join_all(lives).await.into_iter().zip(1..) {
        let burned = life.unwrap_or_else(|_| panic!("the crash at moment {moment} of {moments} was not survived"));
        // How often the engine looks while the judge is at work is not fixed, and so the last moments may not be reached.
        assert!(burned == moment || moment + 50 > moments, "the fuse of {moment} burned for {burned}");
    }
}
