//! What a token of this service grants, and when credentials prove it.
//!
//! A token is for one contribution, and so for one run, round, peer and payload: the contribution's id is the digest of
//! all four; or for one bounty's package. Caveats may only narrow. Unknown ones are skipped, as Aperture does, since their holder added them for others.

use std::fmt;

use super::header::{Scheme, credentials_header};
use super::macaroon::{Macaroon, MacaroonError};
use crate::protocol::ids::{BountyId, ContributionId, PaymentHash, Preimage};

const IDENTIFIER_VERSION: u16 = 0;
const IDENTIFIER_BYTES: usize = 66;
/// Where the macaroon says it is from: a hint for people, unsigned.
const LOCATION: &str = "l402";

const SERVICE: &str = "l402t";
const CAVEAT_SERVICES: &str = "services";
const CAVEAT_VALID_UNTIL: &str = "l402t_valid_until";
const CAVEAT_CONTRIBUTION: &str = "l402t_contribution";
const CAVEAT_BOUNTY: &str = "l402t_bounty";
const CAVEAT_PREIMAGE: &str = "preimage";

/// The secret that one token is minted with. Its `Debug` shows nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RootKey([u8; 32]);

impl RootKey {
    /// From 32 bytes of a secure random source.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes, to be stored where no reader of logs or of the API comes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(..)")
    }
}

/// A token's public name, by which the coordinator finds its root key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 32]);

impl TokenId {
    /// From 32 random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// A macaroon's identifier: version ‖ payment hash ‖ token id, big-endian, 66 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identifier {
    /// The fee invoice's.
    pub payment_hash: PaymentHash,
    /// The token's name.
    pub token_id: TokenId,
}

impl Identifier {
    /// The signed bytes.
    pub fn to_bytes(&self) -> [u8; IDENTIFIER_BYTES] {
        let mut bytes = [0; IDENTIFIER_BYTES];
        bytes[..2].copy_from_slice(&IDENTIFIER_VERSION.to_be_bytes());
        bytes[2..34].copy_from_slice(self.payment_hash.as_bytes());
        bytes[34..].copy_from_slice(self.token_id.as_bytes());
        bytes
    }

    /// Reads a macaroon's identifier.
    pub fn of(macaroon: &Macaroon) -> Result<Self, TokenError> {
        let malformed = || TokenError::Malformed("the macaroon's identifier is not one of this service".into());
        let bytes: [u8; IDENTIFIER_BYTES] = macaroon.identifier().try_into().map_err(|_| malformed())?;
        let (mut payment_hash, mut token_id) = ([0; 32], [0; 32]);
        payment_hash.copy_from_slice(&bytes[2..34]);
        token_id.copy_from_slice(&bytes[34..]);
        if bytes[..2] != IDENTIFIER_VERSION.to_be_bytes() {
            return Err(malformed());
        }
        Ok(Self { payment_hash: PaymentHash::from_bytes(payment_hash), token_id: TokenId(token_id) })
    }
}

/// What is sold for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goods {
    /// A ticket for this contribution.
    Ticket(ContributionId),
    /// What this bounty gives its agents, as often as it is asked for.
    Package(BountyId),
}

impl Goods {
    fn caveat(self) -> &'static str {
        match self {
            Goods::Ticket(_) => CAVEAT_CONTRIBUTION,
            Goods::Package(_) => CAVEAT_BOUNTY,
        }
    }

    fn to_caveat(self) -> String {
        match self {
            Goods::Ticket(contribution) => format!("{}={contribution}", self.caveat()),
            Goods::Package(bounty) => format!("{}={bounty}", self.caveat()),
        }
    }
}

impl fmt::Display for Goods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goods::Ticket(contribution) => write!(f, "contribution {contribution}"),
            Goods::Package(bounty) => write!(f, "bounty {bounty}"),
        }
    }
}

/// What a token is minted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// All that it buys.
    pub goods: Goods,
    /// It holds before this Unix time, in seconds.
    pub valid_until_s: u64,
}

/// Mints a token: worthless until the invoice with `identifier.payment_hash` is paid.
pub fn mint(root_key: &RootKey, identifier: &Identifier, grant: &Grant) -> Macaroon {
    Macaroon::new(root_key.as_bytes(), &identifier.to_bytes(), LOCATION)
        .with_caveat(&format!("{CAVEAT_SERVICES}={SERVICE}:0"))
        .with_caveat(&format!("{CAVEAT_VALID_UNTIL}={}", grant.valid_until_s))
        .with_caveat(&grant.goods.to_caveat())
}

/// Why credentials buy nothing. Each has a stable code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not L402 credentials, or a caveat of ours that can't be read.
    #[error("the L402 credentials can't be read: {0}")]
    Malformed(String),
    /// The coordinator never minted it, or has forgotten it.
    #[error("no token {0} is known here")]
    Unknown(TokenId),
    /// The HMAC chain doesn't end in the macaroon's signature.
    #[error("the macaroon's signature is wrong")]
    BadSignature,
    /// Too late.
    #[error("the token expired at Unix time {valid_until_s}, and it is {now_s}")]
    Expired {
        /// When it ended, in seconds.
        valid_until_s: u64,
        /// The coordinator's clock, in seconds.
        now_s: u64,
    },
    /// For another contribution, or another bounty.
    #[error("the token was bought for {bought}, not for {asked}")]
    WrongGoods {
        /// What the caveat says.
        bought: String,
        /// What the request asks for.
        asked: Goods,
    },
    /// For another service.
    #[error("the token is not for this service")]
    WrongService,
    /// A later caveat allows more than an earlier one.
    #[error("a later caveat {0} allows more than an earlier one")]
    Widened(&'static str),
    /// The preimage is not the one of the macaroon's invoice.
    #[error("the preimage is not the one of the invoice with payment hash {0}")]
    WrongPreimage(PaymentHash),
    /// The coordinator's node doesn't say that the invoice is settled.
    #[error("the invoice with payment hash {0} is not settled")]
    Unpaid(PaymentHash),
}

impl TokenError {
    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            TokenError::Malformed(_) => "token_malformed",
            TokenError::Unknown(_) => "token_unknown",
            TokenError::BadSignature => "token_bad_signature",
            TokenError::Expired { .. } => "token_expired",
            TokenError::WrongGoods { asked: Goods::Ticket(_), .. } => "token_wrong_contribution",
            TokenError::WrongGoods { asked: Goods::Package(_), .. } => "token_wrong_bounty",
            TokenError::WrongService => "token_wrong_service",
            TokenError::Widened(_) => "token_widened",
            TokenError::WrongPreimage(_) => "token_wrong_preimage",
            TokenError::Unpaid(_) => "token_unpaid",
        }
    }
}

impl From<MacaroonError> for TokenError {
    fn from(error: MacaroonError) -> Self {
        TokenError::Malformed(error.to_string())
    }
}

/// A token and the proof that it was paid for, not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub(super) macaroon: Macaroon,
    pub(super) identifier: Identifier,
    pub(super) preimage: Preimage,
}

impl Credentials {
    /// What a client shows once it has paid.
    pub fn new(macaroon: Macaroon, preimage: Preimage) -> Result<Self, TokenError> {
        let identifier = Identifier::of(&macaroon)?;
        Ok(Self { macaroon, identifier, preimage })
    }

    /// Reads the value of an `Authorization` header: `L402` or `LSAT` in any case, a macaroon in any base64, and the
    /// preimage after a colon, in a `preimage=` caveat, or both.
    pub fn parse(header: &str) -> Result<Self, TokenError> {
        let malformed = |what: &str| TokenError::Malformed(what.into());
        let (scheme, rest) =
            header.trim().split_once([' ', '\t']).ok_or_else(|| malformed("expected: L402 <macaroon>:<preimage>"))?;
        if Scheme::named(scheme).is_none() {
            return Err(malformed("the scheme is neither L402 nor LSAT"));
        }
        let (macaroon, preimage) = match rest.trim().split_once(':') {
            Some((macaroon, preimage)) => (macaroon, Some(parse_preimage(preimage)?)),
            None => (rest.trim(), None),
        };
        let macaroon = Macaroon::from_base64(macaroon)?;
        let preimage = match preimage {
            Some(preimage) => preimage,
            None => {
                let value =
                    known_caveats(&macaroon).find_map(|(name, value)| (name == CAVEAT_PREIMAGE).then_some(value));
                parse_preimage(value.ok_or_else(|| malformed("no preimage: expected <macaroon>:<preimage>"))?)?
            }
        };
        Self::new(macaroon, preimage)
    }

    /// By which the root key is found.
    pub fn token_id(&self) -> TokenId {
        self.identifier.token_id
    }

    /// Of the invoice that pays for the token.
    pub fn payment_hash(&self) -> PaymentHash {
        self.identifier.payment_hash
    }

    /// The value of an `Authorization` header.
    pub fn to_header(&self) -> String {
        credentials_header(Scheme::L402, &self.macaroon, &self.preimage)
    }
}

/// Checks the HMAC chain, the preimage and every caveat. The caller must still see that the invoice is settled.
pub fn verify(
    credentials: &Credentials,
    root_key: &RootKey,
    now_s: u64,
    asked: Goods,
) -> Result<PaymentHash, TokenError> {
    // Nothing of an unsigned macaroon is looked at.
    if !credentials.macaroon.is_signed_by(root_key.as_bytes()) {
        return Err(TokenError::BadSignature);
    }
    let payment_hash = credentials.payment_hash();
    if credentials.preimage.payment_hash() != payment_hash {
        return Err(TokenError::WrongPreimage(payment_hash));
    }
    let mut seen = Seen::default();
    for (name, value) in known_caveats(&credentials.macaroon) {
        match name {
            CAVEAT_SERVICES => seen.services(value)?,
            CAVEAT_VALID_UNTIL => seen.valid_until(value)?,
            CAVEAT_CONTRIBUTION | CAVEAT_BOUNTY => seen.goods(name, value, asked)?,
            CAVEAT_PREIMAGE if parse_preimage(value)? != credentials.preimage => {
                return Err(TokenError::WrongPreimage(payment_hash));
            }
            _ => {}
        }
    }
    // We mint every token with these; one without them is not ours, whoever signed it.
    let missing = |name| TokenError::Malformed(format!("the macaroon lacks the caveat {name}"));
    seen.services.ok_or_else(|| missing(CAVEAT_SERVICES))?;
    seen.goods.ok_or_else(|| missing(asked.caveat()))?;
    let valid_until_s = seen.valid_until_s.ok_or_else(|| missing(CAVEAT_VALID_UNTIL))?;
    if now_s >= valid_until_s {
        return Err(TokenError::Expired { valid_until_s, now_s });
    }
    Ok(payment_hash)
}

/// What the caveats so far allow.
#[derive(Default)]
struct Seen<'a> {
    services: Option<Vec<&'a str>>,
    valid_until_s: Option<u64>,
    goods: Option<()>,
}

impl<'a> Seen<'a> {
    /// A list of `name:tier`; every later list must be part of the one before.
    fn services(&mut self, value: &'a str) -> Result<(), TokenError> {
        let list: Vec<&str> = value.split(',').map(str::trim).collect();
        if self.services.as_ref().is_some_and(|earlier| list.iter().any(|service| !earlier.contains(service))) {
            return Err(TokenError::Widened(CAVEAT_SERVICES));
        }
        if !list.iter().any(|service| service.split_once(':').is_some_and(|(name, _)| name == SERVICE)) {
            return Err(TokenError::WrongService);
        }
        self.services = Some(list);
        Ok(())
    }

    fn valid_until(&mut self, value: &str) -> Result<(), TokenError> {
        let unreadable = || TokenError::Malformed(format!("the caveat {CAVEAT_VALID_UNTIL} is not a Unix time"));
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            return Err(unreadable());
        }
        let valid_until_s: u64 = value.parse().map_err(|_| unreadable())?;
        if self.valid_until_s.is_some_and(|earlier| valid_until_s > earlier) {
            return Err(TokenError::Widened(CAVEAT_VALID_UNTIL));
        }
        self.valid_until_s = Some(valid_until_s);
        Ok(())
    }

    fn goods(&mut self, name: &str, value: &str, asked: Goods) -> Result<(), TokenError> {
        if format!("{name}={value}") != asked.to_caveat() {
            // Whoever holds a token may have added caveats of any length to it.
            let bought = format!("{name} {}", value.chars().take(64).collect::<String>());
            return Err(TokenError::WrongGoods { bought, asked });
        }
        self.goods = Some(());
        Ok(())
    }
}

/// The caveats that are `name=value` in UTF-8; others can't be ours.
fn known_caveats(macaroon: &Macaroon) -> impl Iterator<Item = (&str, &str)> {
    macaroon.caveats().filter_map(|caveat| std::str::from_utf8(caveat).ok()?.split_once('='))
}

fn parse_preimage(text: &str) -> Result<Preimage, TokenError> {
    let mut bytes = [0; 32];
    // The text is a secret in part: the error doesn't repeat it.
    hex::decode_to_slice(text.trim(), &mut bytes)
        .map_err(|_| TokenError::Malformed("the preimage is not 64 hex digits".into()))?;
    Ok(Preimage::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn contribution(byte: u8) -> ContributionId {
        ContributionId::from_bytes([byte; 32])
    }

    fn preimage() -> Preimage {
        Preimage::from_bytes(std::array::from_fn(|i| i as u8))
    }

    fn minted() -> Macaroon {
        let identifier =
            Identifier { payment_hash: preimage().payment_hash(), token_id: TokenId::from_bytes([0xaa; 32]) };
        let grant = Grant { goods: Goods::Ticket(contribution(5)), valid_until_s: NOW_S + 1 };
        mint(&RootKey::from_bytes([0x11; 32]), &identifier, &grant)
    }

    fn check(macaroon: Macaroon) -> Result<PaymentHash, TokenError> {
        check_at(macaroon, NOW_S)
    }

    fn check_at(macaroon: Macaroon, now_s: u64) -> Result<PaymentHash, TokenError> {
        let credentials = Credentials::new(macaroon, preimage())?;
        verify(&credentials, &RootKey::from_bytes([0x11; 32]), now_s, Goods::Ticket(contribution(5)))
    }

    #[test]
    fn a_minted_token_with_its_preimage_verifies_until_it_expires() {
        assert_eq!(check(minted()), Ok(preimage().payment_hash()));
        let expired = TokenError::Expired { valid_until_s: NOW_S + 1, now_s: NOW_S + 1 };
        assert_eq!(check_at(minted(), NOW_S + 1), Err(expired));
    }

    #[test]
    fn another_root_key_preimage_or_contribution_is_told_apart() {
        let credentials = Credentials::new(minted(), preimage()).expect("well formed");
        let asked = Goods::Ticket(contribution(5));
        let other_key = RootKey::from_bytes([0x12; 32]);
        assert_eq!(verify(&credentials, &other_key, NOW_S, asked), Err(TokenError::BadSignature));

        let key = RootKey::from_bytes([0x11; 32]);
        let stolen = Credentials::new(minted(), Preimage::from_bytes([9; 32])).expect("well formed");
        assert_eq!(verify(&stolen, &key, NOW_S, asked), Err(TokenError::WrongPreimage(preimage().payment_hash())));
        let other = Goods::Ticket(contribution(6));
        let error = verify(&credentials, &key, NOW_S, other).expect_err("bound to contribution 5");
        assert_eq!(error.code(), "token_wrong_contribution");
    }

    #[test]
    fn caveats_narrow_and_never_widen() {
        assert!(check(minted().with_caveat(&format!("l402t_valid_until={}", NOW_S + 1))).is_ok());
        let narrowed = check(minted().with_caveat(&format!("l402t_valid_until={NOW_S}")));
        assert_eq!(narrowed, Err(TokenError::Expired { valid_until_s: NOW_S, now_s: NOW_S }));
        let later = check(minted().with_caveat(&format!("l402t_valid_until={}", NOW_S + 2)));
        assert_eq!(later, Err(TokenError::Widened("l402t_valid_until")));
        assert_eq!(check(minted().with_caveat("services=other:0")), Err(TokenError::Widened("services")));
        assert_eq!(check(minted().with_caveat("services=l402t:0,other:0")), Err(TokenError::Widened("services")));
        assert!(check(minted().with_caveat("services=l402t:0")).is_ok());
        let moved = check(minted().with_caveat(&format!("l402t_contribution={}", contribution(6))));
        assert_eq!(moved.map_err(|e| e.code()), Err("token_wrong_contribution"));
    }

    #[test]
    fn a_ticket_is_no_package_and_a_package_is_no_ticket() {
        let key = RootKey::from_bytes([0x11; 32]);
        let (ours, other) = (BountyId::from_bytes([5; 32]), BountyId::from_bytes([6; 32]));
        let identifier = Identifier::of(&minted()).expect("ours");
        let package = mint(&key, &identifier, &Grant { goods: Goods::Package(ours), valid_until_s: NOW_S + 1 });
        let check = |macaroon: &Macaroon, goods| {
            let credentials = Credentials::new(macaroon.clone(), preimage()).expect("well formed");
            verify(&credentials, &key, NOW_S, goods).map_err(|error| error.code())
        };
        assert_eq!(check(&package, Goods::Package(ours)), Ok(preimage().payment_hash()));
        assert_eq!(check(&package, Goods::Package(other)), Err("token_wrong_bounty"));
        // The ids have the same bytes: the caveat's name tells them apart.
        assert_eq!(check(&package, Goods::Ticket(contribution(5))), Err("token_wrong_contribution"));
        assert_eq!(check(&minted(), Goods::Package(ours)), Err("token_wrong_bounty"));
        let both = package.with_caveat(&format!("l402t_contribution={}", contribution(5)));
        assert_eq!(check(&both, Goods::Package(ours)), Err("token_wrong_bounty"), "caveats narrow");
    }

    #[test]
    fn unknown_caveats_are_skipped_and_unreadable_ones_of_ours_are_not() {
        assert!(check(minted().with_caveat("colour=blue").with_caveat("no equals sign")).is_ok());
        for caveat in ["l402t_valid_until=", "l402t_valid_until=+5", "l402t_valid_until=99999999999999999999"] {
            assert_eq!(check(minted().with_caveat(caveat)).map_err(|e| e.code()), Err("token_malformed"), "{caveat}");
        }
    }

    #[test]
    fn a_token_without_our_caveats_is_refused_even_if_signed() {
        let identifier = Identifier::of(&minted()).expect("ours");
        let bare = Macaroon::new(&[0x11; 32], &identifier.to_bytes(), LOCATION);
        assert_eq!(check(bare).map_err(|e| e.code()), Err("token_malformed"));
    }

    #[test]
    fn a_preimage_caveat_must_agree_with_the_header() {
        let right = format!("preimage={}", hex::encode(preimage().as_bytes()));
        assert!(check(minted().with_caveat(&right)).is_ok());
        let wrong = minted().with_caveat(&format!("preimage={}", "00".repeat(32)));
        assert_eq!(check(wrong), Err(TokenError::WrongPreimage(preimage().payment_hash())));
    }

    #[test]
    fn every_accepted_form_of_credentials_is_the_same_credentials() {
        let preimage_hex = hex::encode(preimage().as_bytes());
        let padded = minted().to_base64();
        let url_safe = padded.replace('+', "-").replace('/', "_");
        let expected = Credentials::new(minted(), preimage()).expect("well formed");
        for header in [
            format!("L402 {padded}:{preimage_hex}"),
            format!("LSAT {padded}:{preimage_hex}"),
            format!("l402  {}:{preimage_hex} ", padded.trim_end_matches('=')),
            format!("Lsat {url_safe}:{}", preimage_hex.to_uppercase()),
            format!("L402\t{}:{preimage_hex}", url_safe.trim_end_matches('=')),
            expected.to_header(),
        ] {
            assert_eq!(Credentials::parse(&header).as_ref(), Ok(&expected), "{header}");
        }
        let with_caveat = minted().with_caveat(&format!("preimage={preimage_hex}"));
        for header in
            [format!("L402 {}", with_caveat.to_base64()), format!("L402 {}:{preimage_hex}", with_caveat.to_base64())]
        {
            let credentials = Credentials::parse(&header).expect("lnget's form");
            assert_eq!(credentials, Credentials::new(with_caveat.clone(), preimage()).expect("well formed"));
        }
    }

    #[test]
    fn what_is_not_credentials_is_malformed() {
        let padded = minted().to_base64();
        for header in [
            "",
            "L402",
            "L402 ",
            "Bearer abc:def",
            &padded,
            &format!("L402 {padded}"),
            &format!("L402 {padded}:"),
            &format!("L402 {padded}:00"),
            &format!("L402 :{}", "00".repeat(32)),
            &format!("L402 {},{padded}:{}", padded, "00".repeat(32)),
            &format!("L402 {}:{}", Macaroon::new(&[1; 32], b"short", "").to_base64(), "00".repeat(32)),
        ] {
            assert_eq!(Credentials::parse(header).map_err(|e| e.code()), Err("token_malformed"), "{header:?}");
        }
    }

    #[test]
    fn secrets_never_show_in_debug_output_or_errors() {
        let secret = hex::encode(preimage().as_bytes());
        let credentials = Credentials::new(minted(), preimage()).expect("well formed");
        assert!(!format!("{credentials:?}").contains(&secret));
        assert_eq!(format!("{:?}", RootKey::from_bytes([0x11; 32])), "RootKey(..)");
        let error = Credentials::parse(&format!("L402 {}:{secret}00", minted().to_base64())).expect_err("too long");
        assert!(!error.to_string().contains(&secret));
    }
}
