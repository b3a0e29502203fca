//! BOLT 11 at the edge: reads an invoice that somebody else wrote, once, and keeps what the rest may rely on.
//!
//! Past [`parse`] the signature, the network, the amount and every bound here have been checked. It must never accept
//! an invoice without an amount: who pays decides nothing about how much.

use std::str::FromStr;

pub use bitcoin::Network;
use lightning_invoice::{Bolt11Invoice, Currency, ParseOrSemanticError};

use super::LnError;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, UnixMs};

/// Longest invoice that is looked at. One with four route hints has about 900 characters.
pub const MAX_INVOICE_CHARS: usize = 4_096;

/// Most blocks an invoice may ask to be left for its last hop: about two weeks, the most that nodes accept for a whole
/// route.
pub const MAX_FINAL_CLTV_BLOCKS: u32 = 2_016;

/// A BOLT 11 invoice whose signature, network and amount have been checked. It may have expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedInvoice {
    /// As it was given, in lower case.
    pub bolt11: String,
    /// What it is paid to.
    pub payment_hash: PaymentHash,
    /// What it asks for; never zero.
    pub amount: Msat,
    /// The payee's node, compressed public key, 66 hex digits.
    pub payee_node_id: String,
    /// Blocks that the payer must leave the last hop (`c`).
    pub min_final_cltv_blocks: u32,
    /// Not to be paid from then on.
    pub expires_at: UnixMs,
    /// Where its coins are.
    pub network: Network,
}

impl CheckedInvoice {
    /// Whether it must not be paid any more.
    pub fn is_expired(&self, now: UnixMs) -> bool {
        now >= self.expires_at
    }
}

/// Reads an invoice for `network`.
///
/// # Errors
/// [`LnError::BadInvoice`] with what is wrong: not BOLT 11, a wrong signature, another network, no amount or one past
/// 21 million bitcoin, a CLTV delta past [`MAX_FINAL_CLTV_BLOCKS`].
pub fn parse(text: &str, network: Network) -> Result<CheckedInvoice, LnError> {
    let bad = |what: String| LnError::BadInvoice(what);
    let text = text.trim();
    if text.len() > MAX_INVOICE_CHARS {
        return Err(bad(format!("{} characters are more than {MAX_INVOICE_CHARS}", text.len())));
    }
    if names_more_than_all_bitcoin(text) {
        return Err(bad("its amount will never exist".into()));
    }
    let invoice = Bolt11Invoice::from_str(text).map_err(|error| bad(describe(&error)))?;
    if invoice.network() != network || invoice.currency() == Currency::Simnet {
        return Err(bad(format!("it is for another network than {network}, this node's")));
    }
    let amount = match invoice.amount_milli_satoshis() {
        None => return Err(bad("it names no amount".into())),
        Some(0) => return Err(bad("its amount is zero".into())),
        Some(msat) if Msat::new(msat) > Msat::MAX_MONEY => return Err(bad(format!("{msat} msat will never exist"))),
        Some(msat) => Msat::new(msat),
    };
    let cltv = invoice.min_final_cltv_expiry_delta();
    let min_final_cltv_blocks = u32::try_from(cltv)
        .ok()
        .filter(|blocks| *blocks <= MAX_FINAL_CLTV_BLOCKS)
        .ok_or_else(|| bad(format!("it asks for {cltv} blocks, more than {MAX_FINAL_CLTV_BLOCKS}")))?;
    let expires = invoice.expires_at().ok_or_else(|| bad("it never expires".into()))?;
    let payment_hash: &[u8; 32] = invoice.payment_hash().as_ref();
    Ok(CheckedInvoice {
        bolt11: text.to_ascii_lowercase(),
        payment_hash: PaymentHash::from_bytes(*payment_hash),
        amount,
        payee_node_id: invoice.get_payee_pub_key().to_string(),
        min_final_cltv_blocks,
        expires_at: UnixMs(u64::try_from(expires.as_millis()).unwrap_or(u64::MAX)),
        network,
    })
}

/// Reads an invoice for whichever network it names: for a payer who hasn't opened a wallet yet. The same errors.
pub fn parse_any_network(text: &str) -> Result<CheckedInvoice, LnError> {
    let start = text.trim().get(..6).unwrap_or_default().to_ascii_lowercase();
    // The longer names first: one begins with another.
    let networks = [
        ("lnbcrt", Network::Regtest),
        ("lntbs", Network::Signet),
        ("lntb", Network::Testnet),
        ("lnbc", Network::Bitcoin),
    ];
    match networks.into_iter().find(|(prefix, _)| start.starts_with(prefix)) {
        Some((_, network)) => parse(text, network),
        None => Err(LnError::BadInvoice("it names no network that is known here".into())),
    }
}

/// An amount in whole bitcoin (no multiplier) with more digits than 21 million has: the parser multiplies it unchecked.
fn names_more_than_all_bitcoin(text: &str) -> bool {
    let prefix = text.rfind('1').map_or(text, |separator| &text[..separator]);
    prefix.bytes().rev().take_while(u8::is_ascii_digit).count() > 8
}

/// What is wrong, without repeating the text: it may be as long and as odd as its author liked.
fn describe(error: &ParseOrSemanticError) -> String {
    match error {
        ParseOrSemanticError::ParseError(_) => "it can't be read as BOLT 11".into(),
        ParseOrSemanticError::SemanticError(error) => format!("it breaks BOLT 11: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // From BOLT 11's examples.
    const DONATION: &str = "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql";
    const COFFEE: &str = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";

    #[test]
    fn what_the_invoice_says_is_what_is_kept() {
        let invoice = parse(COFFEE, Network::Bitcoin).expect("an example of BOLT 11");
        assert_eq!(invoice.amount, Msat::new(250_000_000));
        assert_eq!(
            invoice.payment_hash.to_string(),
            "0001020304050607080900010203040506070809000102030405060708090102"
        );
        assert_eq!(invoice.payee_node_id, "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad");
        assert_eq!(invoice.min_final_cltv_blocks, 18);
        assert_eq!(invoice.expires_at, UnixMs((1_496_314_658 + 60) * 1_000));
        assert!(invoice.is_expired(UnixMs(1_496_314_718_000)));
        assert!(!invoice.is_expired(UnixMs(1_496_314_717_999)));
    }

    #[test]
    fn an_invoice_in_capitals_is_the_same_invoice() {
        assert_eq!(
            parse(&COFFEE.to_ascii_uppercase(), Network::Bitcoin).expect("capitals are allowed"),
            parse(COFFEE, Network::Bitcoin).expect("valid")
        );
    }

    #[test]
    fn an_invoice_without_an_amount_is_refused() {
        let error = parse(DONATION, Network::Bitcoin).expect_err("no amount");
        assert!(error.to_string().contains("names no amount"), "{error}");
    }

    #[test]
    fn an_invoice_for_another_network_is_refused() {
        let error = parse(COFFEE, Network::Regtest).expect_err("mainnet");
        assert!(error.to_string().contains("another network than regtest"), "{error}");
    }

    #[test]
    fn an_amount_that_overflows_is_refused() {
        let error = parse("lnbc999999999999999999991qqqq", Network::Bitcoin).expect_err("too much");
        assert!(error.to_string().contains("never exist"), "{error}");
    }

    #[test]
    fn an_invoice_says_which_network_it_is_for() {
        assert_eq!(parse_any_network(COFFEE).expect("valid").network, Network::Bitcoin);
        assert_eq!(parse_any_network(&COFFEE.to_ascii_uppercase()).expect("valid").network, Network::Bitcoin);
        for text in ["", "lnxx1", "lnbcrt2500u1pvjluez", &COFFEE.replacen("lnbc", "lntb", 1)] {
            assert!(parse_any_network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_changed_or_cut_invoice_is_refused() {
        for at in [4, 30, 120, COFFEE.len() - 1] {
            let mut changed = COFFEE.to_string();
            let new = if &COFFEE[at..=at] == "q" { "p" } else { "q" };
            changed.replace_range(at..=at, new);
            assert!(parse(&changed, Network::Bitcoin).is_err(), "changed at {at}");
            assert!(parse(&COFFEE[..at], Network::Bitcoin).is_err(), "cut at {at}");
        }
        assert!(parse("", Network::Bitcoin).is_err());
        assert!(parse(&"l".repeat(MAX_INVOICE_CHARS + 1), Network::Bitcoin).is_err());
    }
}
