//! The L402 gate: what it costs to decide about one request, good or forged, and to make a challenge.
//!
//! `cargo bench --bench l402`. The items counted are decisions a second on one core.

use divan::Bencher;
use divan::counter::ItemsCount;
use l402t::protocol::ids::{ContributionId, Preimage};
use l402t::protocol::l402::{
    Credentials, Goods, Grant, Identifier, Macaroon, RootKey, TokenError, TokenId, challenge_header, mint,
    parse_challenge, verify,
};

const NOW_S: u64 = 1_800_000_000;
const ROOT_KEY: RootKey = RootKey::from_bytes([0x11; 32]);
const CONTRIBUTION: ContributionId = ContributionId::from_bytes([5; 32]);
const PREIMAGE: Preimage = Preimage::from_bytes([7; 32]);
/// As long as a fee invoice usually is.
const INVOICE_CHARS: usize = 300;

fn main() {
    divan::main();
}

fn minted(root_key: &RootKey) -> Macaroon {
    let identifier = Identifier { payment_hash: PREIMAGE.payment_hash(), token_id: TokenId::from_bytes([0xaa; 32]) };
    mint(root_key, &identifier, &Grant { goods: Goods::Ticket(CONTRIBUTION), valid_until_s: NOW_S + 600 })
}

fn header(root_key: &RootKey) -> String {
    Credentials::new(minted(root_key), PREIMAGE).expect("a token of ours").to_header()
}

/// The whole decision, from the header's text on.
fn decide(header: &str) -> Result<(), TokenError> {
    let credentials = Credentials::parse(header)?;
    verify(&credentials, &ROOT_KEY, NOW_S, Goods::Ticket(CONTRIBUTION)).map(|_| ())
}

#[divan::bench]
fn gate_admits_a_paid_token(bencher: Bencher) {
    let header = header(&ROOT_KEY);
    assert_eq!(decide(&header), Ok(()));
    bencher.counter(ItemsCount::new(1u32)).bench(|| decide(divan::black_box(&header)));
}

#[divan::bench]
fn gate_refuses_a_forged_token(bencher: Bencher) {
    let header = header(&RootKey::from_bytes([0x12; 32]));
    assert_eq!(decide(&header), Err(TokenError::BadSignature));
    bencher.counter(ItemsCount::new(1u32)).bench(|| decide(divan::black_box(&header)));
}

#[divan::bench]
fn gate_refuses_noise(bencher: Bencher) {
    let header = format!("L402 {}:{}", "A".repeat(400), "00".repeat(32));
    assert!(decide(&header).is_err());
    bencher.counter(ItemsCount::new(1u32)).bench(|| decide(divan::black_box(&header)));
}

#[divan::bench]
fn verify_a_parsed_token(bencher: Bencher) {
    let credentials = Credentials::new(minted(&ROOT_KEY), PREIMAGE).expect("a token of ours");
    let asked = Goods::Ticket(CONTRIBUTION);
    bencher.counter(ItemsCount::new(1u32)).bench(|| verify(divan::black_box(&credentials), &ROOT_KEY, NOW_S, asked));
}

#[divan::bench]
fn mint_and_write_a_challenge(bencher: Bencher) {
    let invoice = "l".repeat(INVOICE_CHARS);
    bencher
        .counter(ItemsCount::new(1u32))
        .bench(|| challenge_header(&minted(divan::black_box(&ROOT_KEY)).to_base64(), &invoice));
}

#[divan::bench]
fn client_reads_a_challenge(bencher: Bencher) {
    let header = challenge_header(&minted(&ROOT_KEY).to_base64(), &"l".repeat(INVOICE_CHARS));
    bencher.counter(ItemsCount::new(1u32)).bench(|| parse_challenge([divan::black_box(header.as_str())]));
}
