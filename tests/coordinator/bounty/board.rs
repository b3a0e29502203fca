//! The board: how many postings nobody has paid for, and which of them stays.

use l402t::coordinator::bounty::{Board, BoardSettings};
use l402t::coordinator::handle::BountyBoard as _;
use l402t::ln::InvoiceStatus;
use l402t::protocol::api::PostAnswer;

use super::*;

const MINUTE_MS: u64 = 60_001;

/// Another sponsor's bounty, as far as the board can tell.
fn posting(number: u32) -> PostRequest {
    World::with(&BOUNTY_TOML.replace("Say a large number", &format!("Say number {number}"))).request
}

async fn board(world: &World) -> Arc<Board> {
    let settings = BoardSettings {
        folder: world.data(),
        most_bounties: 100,
        least_budget: Msat::new(1_000),
        options: Options::default(),
    };
    Board::open(settings, world.around(&Fuse::never())).await.expect("an empty board")
}

/// A board with eight postings that wait for their money.
async fn full_board(world: &World) -> (Arc<Board>, Vec<PostAnswer>) {
    let (board, mut posted) = (board(world).await, Vec::new());
    for number in 0..8 {
        posted.push(board.post(posting(number)).await.expect("taken on"));
        world.clock.advance_ms(1);
    }
    (board, posted)
}

async fn phase(board: &Board, posted: &PostAnswer) -> BountyPhase {
    board.find(&posted.view.bounty).expect("remembered").bounty().await.expect("a view").phase
}

async fn lock_first_part(world: &World, board: &Board, posted: &PostAnswer) {
    let info = world.sponsor.info().await.expect("up");
    let registration = key("sponsor").sign(PeerRegistration {
        run: posted.view.run,
        peer: key("sponsor").id(),
        node_id: info.node_id,
        address: info.address,
    });
    let handle = board.find(&posted.view.bounty).expect("remembered");
    while handle.register(registration.clone()).await.expect("registered").channel != ChannelOffer::Usable {
        world.pass_time(true).await;
    }
    world.sponsor.pay(&posted.invoices[0], LIMITS).await.expect("taken");
}

#[tokio::test]
async fn the_oldest_posting_without_a_satoshi_locked_gives_way_to_a_new_one() {
    let world = World::new();
    let (board, posted) = full_board(&world).await;
    assert_eq!(board.post(posting(8)).await.expect_err("all are new").error.code, "board_full");
    lock_first_part(&world, &board, &posted[0]).await;
    world.clock.advance_ms(MINUTE_MS);
    let mut forged = posting(8);
    forged.held_out_salt = [6; 32];
    assert_eq!(board.post(forged).await.expect_err("not what it says").error.code, "heldout_mismatch");
    assert_eq!(phase(&board, &posted[1]).await, BountyPhase::AwaitingEscrow, "nothing gives way to what is refused");

    let newest = board.post(posting(8)).await.expect("a place");
    assert_eq!(newest.invoices.len(), newest.view.manifest.body.escrow.len());
    assert_eq!(phase(&board, &posted[0]).await, BountyPhase::AwaitingEscrow, "some of its money is locked");
    assert_eq!(phase(&board, &posted[1]).await, BountyPhase::Refused);
    assert_eq!(phase(&board, &posted[2]).await, BountyPhase::AwaitingEscrow);
    let node = world.network.node(COORDINATOR);
    for part in &posted[1].view.manifest.body.escrow {
        assert_eq!(node.invoice(part.payment_hash).await.expect("known"), InvoiceStatus::Canceled);
    }
    board.stop().await;
}

#[tokio::test]
async fn however_many_post_and_never_pay_the_disk_holds_a_few_of_them() {
    let world = World::new();
    let (board, posted) = full_board(&world).await;
    for number in 8..20 {
        world.clock.advance_ms(MINUTE_MS);
        board.post(posting(number)).await.expect("a place");
    }
    let folders = std::fs::read_dir(world.data()).expect("a folder").count();
    assert_eq!(folders, 8 + 8 + 1, "waiting, refused, and the one that has just given way");
    assert!(board.find(&posted[0].view.bounty).is_none(), "the first one is forgotten");
    board.stop().await;
}
