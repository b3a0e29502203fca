//! What a client checks before it pays a challenge, and once it has.

use crate::ln::bolt11::{self, CheckedInvoice, Network};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage, UnixMs};
use crate::protocol::l402::{ChallengeParams, Credentials, Identifier, Macaroon, TokenError};

/// Why a challenge is not paid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// The macaroon can't be read.
    #[error("the challenge's macaroon is not usable: {0}. Nothing was paid")]
    Macaroon(#[from] TokenError),
    /// Not a payable invoice on the expected network, or without an amount.
    #[error("the challenge's invoice is not payable: {0}. Nothing was paid")]
    Invoice(String),
    /// Whoever made the macaroon didn't make the invoice: paying it would not complete the token.
    #[error(
        "the challenge's macaroon is for payment hash {macaroon}, its invoice for {invoice}. Nothing was paid; tell the \
         coordinator's operator"
    )]
    OtherInvoice {
        /// The macaroon's.
        macaroon: PaymentHash,
        /// The invoice's.
        invoice: PaymentHash,
    },
    /// It asks for too much.
    #[error("the challenge asks for {asked}, more than the {cap} that this run's manifest allows. Nothing was paid")]
    TooExpensive {
        /// The invoice's amount.
        asked: Msat,
        /// The most that is paid.
        cap: Msat,
    },
    /// Too late to pay.
    #[error("the challenge's invoice has expired. Nothing was paid; ask for a new one")]
    Expired,
    /// The Lightning node's proof is for something else.
    #[error("the preimage is not the one of payment hash {0}. The Lightning node is at fault")]
    WrongPreimage(PaymentHash),
}

/// A challenge that may be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payable {
    /// To be kept until the ticket is there.
    pub macaroon: Macaroon,
    /// To be paid.
    pub invoice: CheckedInvoice,
}

/// Checks that the macaroon belongs to the invoice, and that the invoice is on the run's network, has not expired and
/// asks for at most `cap`.
pub fn check_challenge(
    params: &ChallengeParams,
    network: Network,
    cap: Msat,
    now: UnixMs,
) -> Result<Payable, ChallengeError> {
    let macaroon = Macaroon::from_base64(&params.macaroon).map_err(TokenError::from)?;
    let identifier = Identifier::of(&macaroon)?;
    let invoice =
        bolt11::parse(&params.invoice, network).map_err(|error| ChallengeError::Invoice(error.to_string()))?;
    if identifier.payment_hash != invoice.payment_hash {
        let (macaroon, invoice) = (identifier.payment_hash, invoice.payment_hash);
        return Err(ChallengeError::OtherInvoice { macaroon, invoice });
    }
    if invoice.amount > cap {
        return Err(ChallengeError::TooExpensive { asked: invoice.amount, cap });
    }
    if invoice.is_expired(now) {
        return Err(ChallengeError::Expired);
    }
    Ok(Payable { macaroon, invoice })
}

impl Payable {
    /// What buys the ticket, once the invoice is paid.
    pub fn credentials(&self, preimage: Preimage) -> Result<Credentials, ChallengeError> {
        if preimage.payment_hash() != self.invoice.payment_hash {
            return Err(ChallengeError::WrongPreimage(self.invoice.payment_hash));
        }
        Ok(Credentials::new(self.macaroon.clone(), preimage)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{FEE, NOW_S, fee_invoice, fee_preimage};
    use crate::protocol::ids::ContributionId;
    use crate::protocol::l402::{Grant, RootKey, TokenId, mint};

    const NOW: UnixMs = UnixMs(NOW_S * 1_000);

    fn macaroon(payment_hash: PaymentHash) -> String {
        let identifier = Identifier { payment_hash, token_id: TokenId::from_bytes([1; 32]) };
        let grant = Grant { contribution: ContributionId::from_bytes([2; 32]), valid_until_s: NOW_S + 600 };
        mint(&RootKey::from_bytes([3; 32]), &identifier, &grant).to_base64()
    }

    fn challenge() -> ChallengeParams {
        ChallengeParams { macaroon: macaroon(fee_preimage().payment_hash()), invoice: fee_invoice(Some(FEE)) }
    }

    #[test]
    fn an_honest_challenge_is_payable_and_its_preimage_makes_credentials() {
        let payable = check_challenge(&challenge(), Network::Regtest, FEE, NOW).expect("payable");
        assert_eq!(payable.invoice.amount, FEE);
        let credentials = payable.credentials(fee_preimage()).expect("the right preimage");
        assert_eq!(credentials.payment_hash(), payable.invoice.payment_hash);
        let wrong = payable.credentials(Preimage::from_bytes([0; 32]));
        assert_eq!(wrong, Err(ChallengeError::WrongPreimage(payable.invoice.payment_hash)));
    }

    #[test]
    fn a_challenge_that_asks_for_too_much_or_an_open_amount_is_not_paid() {
        let cap = Msat::new(FEE.msat() - 1);
        let error = check_challenge(&challenge(), Network::Regtest, cap, NOW);
        assert_eq!(error, Err(ChallengeError::TooExpensive { asked: FEE, cap }));
        let open = ChallengeParams { invoice: fee_invoice(None), ..challenge() };
        assert!(matches!(check_challenge(&open, Network::Regtest, FEE, NOW), Err(ChallengeError::Invoice(_))));
    }

    #[test]
    fn an_invoice_of_another_network_or_time_or_payment_is_not_paid() {
        let elsewhere = check_challenge(&challenge(), Network::Bitcoin, FEE, NOW);
        assert!(matches!(elsewhere, Err(ChallengeError::Invoice(_))), "{elsewhere:?}");
        let late = check_challenge(&challenge(), Network::Regtest, FEE, NOW.plus_ms(600_000));
        assert_eq!(late, Err(ChallengeError::Expired));
        let other = PaymentHash::from_bytes([9; 32]);
        let swapped = ChallengeParams { macaroon: macaroon(other), ..challenge() };
        let expected = ChallengeError::OtherInvoice { macaroon: other, invoice: fee_preimage().payment_hash() };
        assert_eq!(check_challenge(&swapped, Network::Regtest, FEE, NOW), Err(expected));
    }

    #[test]
    fn what_can_not_be_read_is_not_paid() {
        let no_macaroon = ChallengeParams { macaroon: "AAAA".into(), ..challenge() };
        let no_invoice = ChallengeParams { invoice: "lnbcrt1x".into(), ..challenge() };
        assert!(matches!(check_challenge(&no_macaroon, Network::Regtest, FEE, NOW), Err(ChallengeError::Macaroon(_))));
        assert!(matches!(check_challenge(&no_invoice, Network::Regtest, FEE, NOW), Err(ChallengeError::Invoice(_))));
    }
}
