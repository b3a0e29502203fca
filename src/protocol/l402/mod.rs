//! L402: a macaroon, the invoice whose preimage completes it, and the headers that carry both.
//!
//! Pure. This module never decides who may do what: it says whether credentials are whole, unexpired and made for a
//! contribution. Whether the invoice was settled, and whether the token was used before, is the coordinator's to know.

mod header;
mod macaroon;
mod token;

pub use header::{
    ChallengeParams, HeaderError, Scheme, challenge_header, credentials_header, find_credentials, parse_challenge,
};
pub use macaroon::{MAX_MACAROON_BYTES, Macaroon, MacaroonError};
pub use token::{Credentials, Goods, Grant, Identifier, RootKey, TokenError, TokenId, mint, verify};
