//! What a server asks for, checked before a wallet is opened. Pure.

use super::error::FetchError;
use crate::ln::bolt11::{self, CheckedInvoice};
use crate::protocol::amount::Msat;
use crate::protocol::ids::UnixMs;
use crate::protocol::l402::{Identifier, Macaroon, Scheme, parse_challenge};

/// The end of the names of caveats that limit a token's time, as Aperture and others write them: `service_valid_until`.
const VALID_UNTIL: &str = "valid_until";

/// A challenge that may be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) scheme: Scheme,
    /// The macaroon as standard base64.
    pub(super) macaroon: String,
    pub(super) invoice: CheckedInvoice,
}

/// Checks that macaroon and invoice are for one payment hash, that the amount is known and allowed, and that there is
/// time to pay it.
pub(super) fn check(challenges: &[String], most: Msat, now: UnixMs) -> Result<Offer, FetchError> {
    let untrusted = |what: &dyn std::fmt::Display| FetchError::Untrusted(what.to_string());
    let params = parse_challenge(challenges.iter().map(String::as_str)).map_err(|error| untrusted(&error))?;
    let macaroon = Macaroon::from_base64(&params.macaroon).map_err(|error| untrusted(&error))?;
    let identifier = Identifier::of(&macaroon)
        .map_err(|_| untrusted(&"the macaroon does not name its payment hash as L402 says it should"))?;
    let invoice = bolt11::parse_any_network(&params.invoice).map_err(|error| untrusted(&error))?;
    if identifier.payment_hash != invoice.payment_hash {
        return Err(untrusted(&"the invoice pays for another token than the macaroon"));
    }
    if invoice.amount > most {
        return Err(FetchError::TooExpensive { asked: invoice.amount, most });
    }
    if invoice.is_expired(now) {
        return Err(untrusted(&"the invoice has expired already"));
    }
    if ends(&macaroon).is_some_and(|end_s| end_s <= now.0 / 1_000) {
        return Err(untrusted(&"the token has expired already"));
    }
    Ok(Offer { scheme: params.scheme, macaroon: macaroon.to_base64(), invoice })
}

/// From which Unix time on, in seconds, a token is worth nothing, as far as its caveats say it.
pub(super) fn ends(macaroon: &Macaroon) -> Option<u64> {
    let caveats = macaroon.caveats().filter_map(|caveat| std::str::from_utf8(caveat).ok()?.split_once('='));
    caveats.filter(|(name, _)| name.ends_with(VALID_UNTIL)).filter_map(|(_, value)| value.trim().parse().ok()).min()
}
