use proptest::prelude::*;

use super::*;
use crate::protocol::bounty::pay::Direction;
use crate::protocol::bounty::score::Decimals;
use crate::protocol::bounty::verdict::FeeFate;
use crate::protocol::ids::{PeerId, RoundNumber, RunId};

fn score(units: i64) -> Score {
    Score::from_units(units).expect("in range")
}

fn tree(byte: u8) -> Blake3Hash {
    Blake3Hash::from_bytes([byte; 32])
}

const BASELINE_TREE: Blake3Hash = Blake3Hash::from_bytes([0; 32]);

/// Pays 100,000 msat a unit.
fn rules() -> Rules {
    Rules {
        decimals: Decimals::new(0).expect("few"),
        direction: Direction::Higher,
        baseline: score(1_000),
        target: score(2_000),
        budget_msat: Msat::new(100_000_000),
        min_improvement: 100,
        noise_bound: 50,
        submission_cap: 5,
        fee_msat: Msat::new(1_000),
        deadline_ms: UnixMs(1_000),
    }
}

fn book(rules: Rules) -> Book {
    Book::open(rules, BASELINE_TREE).expect("rules that can be kept")
}

fn claim(diff: u8, units: i64) -> Commitment {
    Commitment {
        run: RunId::from_bytes([1; 32]),
        round: RoundNumber(0),
        opening: tree(0),
        peer: PeerId::from_bytes([diff; 32]),
        payload: tree(diff),
        payload_bytes: 10,
        claim: Some(score(units)),
    }
}

fn offer(msat: u64) -> Offer {
    Offer::new(Msat::new(msat), rules().fee_msat).expect("1 sat or more")
}

/// Takes a claim and decides it.
fn submit(book: &mut Book, diff: u8, claimed: i64, scored: i64) -> Outcome {
    let commitment = claim(diff, claimed);
    book.take(&commitment).expect("taken");
    let finding = Finding::Scored { score: score(scored), tree: tree(diff) };
    book.decide(commitment.contribution_id(), finding).expect("next").1
}

fn rejected(reason: Rejection) -> Outcome {
    Outcome::Rejected { reason }
}

#[test]
fn improvements_are_paid_one_upon_the_other() {
    let mut book = book(rules());
    assert_eq!(submit(&mut book, 1, 1_300, 1_350), Outcome::Reached { reward_msat: Msat::new(30_000_000) });
    // The best is what was claimed, not what was verified: the verified score stays sealed.
    assert_eq!(book.best(), score(1_300));
    assert_eq!(submit(&mut book, 2, 1_500, 1_500), Outcome::Reached { reward_msat: Msat::new(20_000_000) });
    assert_eq!(submit(&mut book, 3, 2_500, 2_600), Outcome::Reached { reward_msat: Msat::new(50_000_000) });
    assert_eq!(book.paid(), rules().budget_msat);
    assert_eq!(book.take(&claim(4, 3_000)), Err(Refusal::NothingLeft));
}

#[test]
fn overclaiming_pays_nothing_and_leaves_the_best_as_it_was() {
    let mut book = book(rules());
    assert_eq!(submit(&mut book, 1, 1_300, 1_299), rejected(Rejection::BelowClaim));
    assert_eq!((book.best(), book.paid()), (score(1_000), Msat::ZERO));
}

#[test]
fn a_claim_below_the_step_is_refused_before_it_costs_anything() {
    let mut book = book(rules());
    assert_eq!(book.take(&claim(1, 1_099)), Err(Refusal::ClaimTooSmall(score(1_100))));
    assert_eq!(book.take(&claim(1, 1_100)), Ok(offer(10_000_000)));
    assert_eq!(book.entries().len(), 1);
}

#[test]
fn the_noise_bound_counts_where_it_is_larger() {
    let mut book = book(Rules { noise_bound: 250, ..rules() });
    assert_eq!(book.take(&claim(1, 1_249)), Err(Refusal::ClaimTooSmall(score(1_250))));
}

#[test]
fn less_is_better_where_the_rules_say_so() {
    let mut book = book(Rules { direction: Direction::Lower, target: score(0), ..rules() });
    assert_eq!(book.least_claim(), Some(score(900)));
    assert_eq!(submit(&mut book, 1, 500, 501), rejected(Rejection::BelowClaim));
    assert_eq!(submit(&mut book, 2, 500, 499), Outcome::Reached { reward_msat: Msat::new(50_000_000) });
}

#[test]
fn the_same_files_again_are_no_improvement_whatever_they_claim() {
    let mut book = book(rules());
    submit(&mut book, 1, 1_300, 1_900);
    let copy = claim(2, 1_900);
    book.take(&copy).expect("another diff");
    let finding = Finding::Scored { score: score(1_900), tree: tree(1) };
    assert_eq!(
        book.decide(copy.contribution_id(), finding).map(|(_, outcome, _)| outcome),
        Ok(rejected(Rejection::NoImprovement))
    );
    // A diff that changes nothing, too.
    let nothing = claim(3, 1_900);
    book.take(&nothing).expect("taken");
    let finding = Finding::Scored { score: score(1_900), tree: BASELINE_TREE };
    assert_eq!(
        book.decide(nothing.contribution_id(), finding).map(|(_, outcome, _)| outcome),
        Ok(rejected(Rejection::NoImprovement))
    );
}

#[test]
fn two_claims_at_once_are_decided_in_the_order_of_their_commitments() {
    let mut book = book(rules());
    let (first, second) = (claim(1, 1_300), claim(2, 1_400));
    assert_eq!(book.take(&first), Ok(offer(30_000_000)));
    assert_eq!(book.take(&second), Ok(offer(40_000_000)));
    let finding = |diff| Finding::Scored { score: score(1_400), tree: tree(diff) };
    let (first, second) = (first.contribution_id(), second.contribution_id());
    // The second one's evaluation is ready first: it waits.
    assert_eq!(book.decide(second, finding(2)), Err(OutOfOrder::Waits(first)));
    assert_eq!(
        book.decide(first, finding(1)).map(|(_, outcome, _)| outcome),
        Ok(Outcome::Reached { reward_msat: Msat::new(30_000_000) })
    );
    // Less than it was offered: the first one has improved meanwhile.
    assert_eq!(
        book.decide(second, finding(2)).map(|(_, outcome, _)| outcome),
        Ok(Outcome::Reached { reward_msat: Msat::new(9_032_254) })
    );
    assert_eq!(book.decide(second, finding(2)), Err(OutOfOrder::Decided(second)));
}

#[test]
fn a_claim_that_another_one_overtakes_is_no_improvement() {
    let mut book = book(rules());
    let (first, second) = (claim(1, 1_300), claim(2, 1_350));
    book.take(&first).expect("taken");
    book.take(&second).expect("taken");
    let finding = |diff| Finding::Scored { score: score(1_900), tree: tree(diff) };
    book.decide(first.contribution_id(), finding(1)).expect("next");
    assert_eq!(
        book.decide(second.contribution_id(), finding(2)).map(|(_, outcome, _)| outcome),
        Ok(rejected(Rejection::NoImprovement))
    );
}

#[test]
fn the_cap_counts_submissions_of_everybody_and_of_every_outcome() {
    let mut book = book(rules());
    for diff in 1..=5 {
        let commitment = claim(diff, 1_500);
        book.take(&commitment).expect("below the cap");
        let finding = Finding::Failed(if diff == 1 { Rejection::ScorerFailed } else { Rejection::BuildFailed });
        let outcome = book.decide(commitment.contribution_id(), finding).expect("next").1;
        assert_eq!(outcome.fee(), if diff == 1 { FeeFate::Refunded } else { FeeFate::Kept });
    }
    assert_eq!(book.take(&claim(6, 1_500)), Err(Refusal::CapReached(5)));
    assert_eq!(book.over(UnixMs(500)), Some(Over::Cap));
}

#[test]
fn late_and_repeated_commitments_are_refused() {
    let mut book = book(rules());
    assert_eq!(book.offer(&claim(1, 1_500), UnixMs(1_000)), Ok(offer(50_000_000)));
    assert_eq!(book.offer(&claim(1, 1_500), UnixMs(1_001)), Err(Refusal::Closed(UnixMs(1_000))));
    assert_eq!((book.over(UnixMs(1_000)), book.over(UnixMs(1_001))), (None, Some(Over::Deadline)));
    book.take(&claim(1, 1_500)).expect("in time");
    let first = claim(1, 1_500).contribution_id();
    assert_eq!(book.take(&claim(1, 1_500)), Err(Refusal::Duplicate(first)));
    // The same diff for another claim would be a second bit for one idea.
    assert_eq!(book.take(&claim(1, 1_600)), Err(Refusal::Duplicate(first)));
    let unknown = claim(9, 1_500).contribution_id();
    let finding = Finding::Failed(Rejection::NotRevealed);
    assert_eq!(book.decide(unknown, finding), Err(OutOfOrder::Unknown(unknown)));
}

proptest! {
    #[test]
    fn whatever_is_claimed_no_more_than_the_offer_and_the_budget_is_paid_and_a_replay_agrees(
        submissions in proptest::collection::vec((900i64..2_500, 900i64..2_500, 0u8..3), 0..40),
        together in 1usize..6,
    ) {
        let rules = Rules { submission_cap: 100, min_improvement: 1, noise_bound: 0, ..rules() };
        let mut history = Vec::new();
        let (mut first, mut second) = (book(rules), book(rules));
        for (place, chunk) in submissions.chunks(together).enumerate() {
            let mut open = Vec::new();
            for (at, (claimed, scored, kind)) in chunk.iter().enumerate() {
                let commitment = claim((place * together + at) as u8, *claimed);
                if first.take(&commitment).is_ok() {
                    let finding = match kind {
                        0 => Finding::Failed(Rejection::TimeLimit),
                        _ => Finding::Scored { score: score(*scored), tree: tree((*scored % 251) as u8 + 1) },
                    };
                    open.push((commitment, finding));
                }
            }
            for (commitment, finding) in &open {
                first.decide(commitment.contribution_id(), *finding).expect("in order");
            }
            history.push(open);
        }
        for open in &history {
            for (commitment, _) in open {
                second.take(commitment).expect("as before");
            }
            for (commitment, finding) in open {
                second.decide(commitment.contribution_id(), *finding).expect("in order");
            }
        }
        prop_assert_eq!(first.entries(), second.entries());
        let paid: u64 = first.entries().iter().map(|entry| entry.outcome.expect("decided").reward().msat()).sum();
        prop_assert_eq!(paid, first.paid().msat());
        prop_assert!(paid <= rules.budget_msat.msat());
        for entry in first.entries() {
            prop_assert!(entry.outcome.expect("decided").reward() <= entry.offer.most());
        }
    }
}
