//! Whose request it is when it comes through a reverse proxy.
//!
//! A forwarding header is believed only where the connection comes from a proxy that the operator named, and only the
//! one header that the operator's proxies write: a proxy passes the other one on from the client as it came. The list
//! is read from its end, where the nearest proxy wrote; what stands before the first address that isn't a proxy's was
//! written by the client and is never looked at.

use std::net::{IpAddr, SocketAddr};

use axum::http::header::{FORWARDED, HeaderName};
use axum::http::{HeaderMap, HeaderValue};

/// The most proxies in a row that are followed. Past it, all clients of the last one count as one.
const MAX_HOPS: usize = 8;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header in which proxies say whose request they pass on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239).
    Forwarded,
}

/// Addresses under one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Neither an address nor `address/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address such as 127.0.0.1 or a network such as 10.1.0.0/16")]
pub struct BadNetwork(String);

impl std::str::FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork(text.chars().take(64).collect());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(whole);
        // A prefix of none would believe everybody.
        if prefix == 0 || prefix > whole {
            return Err(bad());
        }
        Ok(Self { address, prefix })
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.prefix)) == Some(0)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.prefix)) == Some(0)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The reverse proxies in front of the server. By default there are none, and every header is the client's own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Where they connect from.
    pub networks: Vec<Network>,
    /// What they write.
    pub header: ForwardedHeader,
}

impl TrustedProxies {
    /// Whether connections from there carry other people's requests.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(address))
    }

    /// The address that sent the request, as far as it can be known: the last one before our own proxies.
    pub(super) fn origin(&self, connected: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.contains(connected) {
            return connected;
        }
        let entries: Vec<Option<IpAddr>> = match self.header {
            ForwardedHeader::XForwardedFor => values(headers, &X_FORWARDED_FOR).flat_map(x_forwarded_for).collect(),
            ForwardedHeader::Forwarded => values(headers, &FORWARDED).flat_map(forwarded).collect(),
        };
        let mut nearest = connected;
        for entry in entries.into_iter().rev().take(MAX_HOPS) {
            // What can't be read can't be told apart: all such clients of this proxy are one.
            let Some(address) = entry else { return nearest };
            nearest = address;
            if !self.contains(nearest) {
                return nearest;
            }
        }
        nearest
    }
}

/// All values of a header; one that isn't text is unreadable.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().map(|value: &HeaderValue| value.to_str().unwrap_or_default())
}

fn x_forwarded_for(value: &str) -> impl Iterator<Item = Option<IpAddr>> {
    value.split(',').map(node_address)
}

/// The `for` of each element. Other parameters carry the client's own words (its `Host`), in quotes: a comma in there
/// must not begin an element.
fn forwarded(value: &str) -> Vec<Option<IpAddr>> {
    let Some(elements) = split_unquoted(value, ',') else { return vec![None] };
    let address = |element: &&str| {
        let pairs = split_unquoted(element, ';')?;
        let mut named = pairs.iter().filter_map(|pair| pair.split_once('='));
        let (_, node) = named.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
        node_address(node.trim().trim_matches('"'))
    };
    elements.iter().map(address).collect()
}

/// Splits outside of quoted strings; `None` where a quoted string doesn't end.
fn split_unquoted(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!quoted).then_some(parts)
}

/// An address as proxies write it: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn node_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let address = match bracketed {
        Some(address) => address.parse().ok(),
        None => text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())),
    };
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(networks: &[&str], header: ForwardedHeader) -> TrustedProxies {
        TrustedProxies { networks: networks.iter().map(|text| text.parse().expect("a network")).collect(), header }
    }

    fn origin(proxies: &TrustedProxies, connected: &str, name: &'static str, values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        proxies.origin(connected.parse().expect("an address"), &headers).to_string()
    }

    #[test]
    fn nobody_but_a_named_proxy_is_believed() {
        let none = TrustedProxies::default();
        assert_eq!(origin(&none, "127.0.0.1", "x-forwarded-for", &["192.0.2.1"]), "127.0.0.1");
        let one = proxies(&["10.1.0.0/16"], ForwardedHeader::XForwardedFor);
        assert_eq!(origin(&one, "10.2.0.1", "x-forwarded-for", &["192.0.2.1"]), "10.2.0.1");
        assert_eq!(origin(&one, "10.1.200.1", "x-forwarded-for", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(origin(&one, "::ffff:10.1.200.1", "x-forwarded-for", &["192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn what_the_client_wrote_before_the_proxy_is_never_looked_at() {
        let one = proxies(&["127.0.0.1", "10.1.0.0/16"], ForwardedHeader::XForwardedFor);
        let of = |values: &[&str]| origin(&one, "127.0.0.1", "x-forwarded-for", values);
        assert_eq!(of(&["198.51.100.9, 192.0.2.1"]), "192.0.2.1");
        assert_eq!(of(&["198.51.100.9", "192.0.2.1, 10.1.2.3"]), "192.0.2.1", "two proxies of ours, two headers");
        assert_eq!(of(&["127.0.0.1, 192.0.2.1"]), "192.0.2.1", "a client that calls itself a proxy");
        assert_eq!(of(&["192.0.2.1, nonsense"]), "127.0.0.1");
        assert_eq!(of(&["192.0.2.1, nonsense, 10.1.2.3"]), "10.1.2.3");
        assert_eq!(of(&[]), "127.0.0.1");
        let long = "10.1.0.1, ".repeat(5_000) + "10.1.0.1";
        assert_eq!(of(&[&format!("192.0.2.1, {long}")]), "10.1.0.1", "not every hop is followed");
    }

    #[test]
    fn only_the_configured_header_counts() {
        let one = proxies(&["127.0.0.1"], ForwardedHeader::XForwardedFor);
        assert_eq!(origin(&one, "127.0.0.1", "forwarded", &["for=192.0.2.1"]), "127.0.0.1");
        let one = proxies(&["127.0.0.1"], ForwardedHeader::Forwarded);
        assert_eq!(origin(&one, "127.0.0.1", "x-forwarded-for", &["192.0.2.1"]), "127.0.0.1");
    }

    #[test]
    fn forwarded_elements_are_read_and_the_clients_words_in_them_are_not() {
        let one = proxies(&["127.0.0.1"], ForwardedHeader::Forwarded);
        let of = |value: &str| origin(&one, "127.0.0.1", "forwarded", &[value]);
        assert_eq!(of("for=192.0.2.1;proto=http;by=127.0.0.1"), "192.0.2.1");
        assert_eq!(of(r#"For="[2001:db8::1]:4711""#), "2001:db8::1");
        assert_eq!(of("for=198.51.100.9, for=192.0.2.1"), "192.0.2.1");
        assert_eq!(of(r#"for=192.0.2.1;host="a, for=198.51.100.9""#), "192.0.2.1");
        assert_eq!(of(r#"for=192.0.2.1;host="a\", for=198.51.100.9""#), "192.0.2.1");
        for unreadable in ["for=unknown", "for=_hidden", "proto=http", r#"for=192.0.2.1;host="a"#, ""] {
            assert_eq!(of(unreadable), "127.0.0.1", "{unreadable}");
        }
    }

    #[test]
    fn networks_are_read_and_one_that_holds_everybody_is_not() {
        for text in ["", "10.0.0.0/0", "::/0", "10.0.0.0/33", "::/129", "10.0.0.0/", "proxy.example", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        let v6: Network = "2001:db8::/32".parse().expect("a network");
        assert!(v6.contains("2001:db8:ffff::1".parse().expect("an address")));
        assert!(!v6.contains("2001:db9::1".parse().expect("an address")));
        assert!(!v6.contains("10.0.0.1".parse().expect("an address")));
    }
}
