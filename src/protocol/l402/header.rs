//! The two headers: the server's `WWW-Authenticate` challenge and the client's `Authorization`.
//!
//! Writing is exact, since some clients match order and spacing. Reading a challenge is lenient, since servers differ:
//! quoted or bare values, folded lines, `token` for `macaroon`, unknown parameters, other schemes before or after.

use super::macaroon::Macaroon;
use crate::protocol::ids::Preimage;

/// The most bytes of challenge headers that a client reads.
const MAX_HEADER_BYTES: usize = 32_768;

/// Why a 402 answer can't be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No challenge with both a macaroon and an invoice.
    #[error("the answer has no L402 challenge with a macaroon and an invoice")]
    NoChallenge,
    /// More than any challenge needs.
    #[error("the WWW-Authenticate headers have more than {MAX_HEADER_BYTES} bytes")]
    TooLong,
}

/// The name that a server calls the scheme by. A client answers with the same one: older servers know only the older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Since 2023.
    #[default]
    L402,
    /// Before.
    Lsat,
}

impl Scheme {
    const ALL: [Scheme; 2] = [Scheme::L402, Scheme::Lsat];

    /// As it is written in headers.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::L402 => "L402",
            Scheme::Lsat => "LSAT",
        }
    }

    /// By its name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name().eq_ignore_ascii_case(name))
    }
}

/// What an L402 challenge says, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeParams {
    /// What the server calls it.
    pub scheme: Scheme,
    /// The macaroon, in some base64.
    pub macaroon: String,
    /// The BOLT 11 invoice.
    pub invoice: String,
}

/// The value of `WWW-Authenticate`. This order and spacing parse in Aperture's, lnget's, Fewsats' and L402sdk's clients.
pub fn challenge_header(macaroon_base64: &str, bolt11: &str) -> String {
    format!(r#"L402 macaroon="{macaroon_base64}", invoice="{bolt11}", version="0", token="{macaroon_base64}""#)
}

/// The value of `Authorization`.
pub fn credentials_header(scheme: Scheme, macaroon: &Macaroon, preimage: &Preimage) -> String {
    format!("{} {}:{}", scheme.name(), macaroon.to_base64(), hex::encode(preimage.as_bytes()))
}

/// Finds the L402 (or LSAT) credentials among all the `Authorization` headers of a request. Some clients send them under
/// both names, some proxies join headers with commas, and other schemes may stand beside; without any, the first header.
pub fn find_credentials<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut first = None;
    for header in headers {
        first = first.or(Some(header));
        // Neither base64 nor hex has a comma.
        let mut parts = header.split(',').map(str::trim);
        let ours = |part: &&str| part.split([' ', '\t']).next().is_some_and(|word| Scheme::named(word).is_some());
        if let Some(credentials) = parts.find(ours) {
            return Some(credentials);
        }
    }
    first
}

/// Finds the L402 (or else LSAT) challenge in all the `WWW-Authenticate` headers of an answer.
pub fn parse_challenge<'a>(headers: impl IntoIterator<Item = &'a str>) -> Result<ChallengeParams, HeaderError> {
    let mut challenges = Vec::new();
    let mut length = 0;
    for header in headers {
        length += header.len();
        if length > MAX_HEADER_BYTES {
            return Err(HeaderError::TooLong);
        }
        challenges.extend(split_challenges(header));
    }
    let payable = |scheme: Scheme| {
        let named = challenges.iter().filter(|challenge| Scheme::named(challenge.scheme) == Some(scheme));
        named.into_iter().find_map(|challenge| params(scheme, challenge))
    };
    Scheme::ALL.into_iter().find_map(payable).ok_or(HeaderError::NoChallenge)
}

/// One challenge of a header: a scheme and its parameters.
struct RawChallenge<'a> {
    scheme: &'a str,
    params: Vec<(&'a str, String)>,
}

fn params(scheme: Scheme, challenge: &RawChallenge<'_>) -> Option<ChallengeParams> {
    let find = |name: &str| {
        let named = challenge.params.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty());
        named.map(|(_, value)| value.clone())
    };
    let macaroon = find("macaroon").or_else(|| find("token"))?;
    Some(ChallengeParams { scheme, macaroon, invoice: find("invoice")? })
}

/// Splits a header at its schemes: a word is a parameter's name if `=` follows it, else a scheme.
fn split_challenges(header: &str) -> Vec<RawChallenge<'_>> {
    let is_gap = |c: char| c.is_ascii_whitespace() || c == ',';
    let mut challenges: Vec<RawChallenge<'_>> = Vec::new();
    let mut rest = header.trim_start_matches(is_gap);
    while !rest.is_empty() {
        let end = rest.find(|c: char| is_gap(c) || c == '=').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        match after.trim_ascii_start().strip_prefix('=') {
            Some(value) => {
                let (value, tail) = take_value(value.trim_ascii_start());
                if let Some(challenge) = challenges.last_mut() {
                    challenge.params.push((word, value));
                }
                rest = tail;
            }
            None => {
                challenges.push(RawChallenge { scheme: word, params: Vec::new() });
                rest = after;
            }
        }
        rest = rest.trim_start_matches(is_gap);
    }
    challenges
}

/// A quoted string (white space from folding is dropped, no value of ours has any) or a bare one up to a gap.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_ascii_whitespace() || c == ',').unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c if c.is_ascii_whitespace() => {}
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(headers: &[&str]) -> Result<(String, String), HeaderError> {
        parse_challenge(headers.iter().copied()).map(|c| (c.macaroon, c.invoice))
    }

    fn found() -> Result<(String, String), HeaderError> {
        Ok(("AgE+/w==".into(), "lnbcrt1abc".into()))
    }

    #[test]
    fn the_challenge_is_written_in_the_order_and_spacing_that_clients_expect() {
        assert_eq!(challenge_header("M", "I"), r#"L402 macaroon="M", invoice="I", version="0", token="M""#);
        assert_eq!(parse(&[&challenge_header("AgE+/w==", "lnbcrt1abc")]), found());
    }

    #[test]
    fn challenges_of_other_servers_are_read() {
        for header in [
            r#"L402 macaroon=AgE+/w==, invoice=lnbcrt1abc"#,
            r#"l402 invoice="lnbcrt1abc",macaroon="AgE+/w==""#,
            r#"L402 token="AgE+/w==", invoice="lnbcrt1abc", version="0""#,
            r#"L402 version="0", colour=blue, macaroon = "AgE+/w==" , invoice = lnbcrt1abc"#,
            r#"LSAT macaroon="AgE+/w==", invoice="lnbcrt1abc""#,
            "L402 macaroon=\"AgE+/w==\",\r\n invoice=\"lnbcrt1\r\n abc\"",
            r#"Bearer realm="a, b", L402 macaroon="AgE+/w==", invoice="lnbcrt1abc""#,
            r#"L402 macaroon="AgE+/w==", invoice="lnbcrt1abc", Basic realm="x""#,
            r#"Negotiate YII=, L402 macaroon="A\gE+/w==" invoice="lnbcrt1abc""#,
        ] {
            assert_eq!(parse(&[header]), found(), "{header}");
        }
    }

    #[test]
    fn the_payable_one_of_several_headers_is_found_and_l402_goes_before_lsat() {
        let lsat = r#"LSAT macaroon="old", invoice="old""#;
        let l402 = r#"L402 macaroon="AgE+/w==", invoice="lnbcrt1abc""#;
        assert_eq!(parse(&[lsat, "Basic realm=x", l402]), found());
        assert_eq!(parse(&[r#"L402 macaroon="half""#, l402]), found());
        assert_eq!(parse(&[&format!("{lsat}, {l402}")]), found());
    }

    #[test]
    fn the_scheme_of_the_challenge_is_kept() {
        let scheme = |header: &str| parse_challenge([header]).map(|challenge| challenge.scheme);
        assert_eq!(scheme(r#"l402 macaroon="a", invoice="b""#), Ok(Scheme::L402));
        assert_eq!(scheme(r#"LSAT macaroon="a", invoice="b""#), Ok(Scheme::Lsat));
    }

    #[test]
    fn credentials_are_found_among_headers_of_any_scheme() {
        for headers in [
            &["L402 M:P"][..],
            &["Basic dTpw", "L402 M:P"],
            &["L402 M:P, LSAT M:P"],
            &["Basic dTpw, L402 M:P"],
            &["L402 M:P", "LSAT other:P"],
        ] {
            assert_eq!(find_credentials(headers.iter().copied()), Some("L402 M:P"), "{headers:?}");
        }
        assert_eq!(find_credentials(["LSAT M:P", "L402 M:P"]), Some("LSAT M:P"));
        assert_eq!(find_credentials(["Bearer x", "Basic y"]), Some("Bearer x"));
        assert_eq!(find_credentials([]), None);
    }

    #[test]
    fn what_can_not_be_paid_is_an_error() {
        for header in ["", "L402", "Bearer x", r#"macaroon="a", invoice="b""#, r#"L402 macaroon="", invoice="b""#] {
            assert_eq!(parse(&[header]), Err(HeaderError::NoChallenge), "{header}");
        }
        assert_eq!(parse(&[&"x".repeat(MAX_HEADER_BYTES + 1)]), Err(HeaderError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[ -~\\r\\n\u{e9}]{0,120}") {
            let _ = parse(&[&text, &format!("L402 macaroon={text}, invoice=\"{text}")]);
        }
    }
}
