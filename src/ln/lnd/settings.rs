//! What it takes to talk to an LND node.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::LndError;

/// The version byte of every macaroon that LND makes.
const MACAROON_V2: u8 = 2;
/// Far more than LND's largest.
const MAX_MACAROON_BYTES: usize = 8 * 1024;

/// How to reach an LND node, and what allows it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of its gRPC.
    pub address: String,
    /// Its TLS certificate (or the authority that signed it), PEM.
    pub tls_cert: SecretSlice<u8>,
    /// Its macaroon: the file's bytes, or hex or base64 of them.
    pub macaroon: SecretSlice<u8>,
    /// What others are told to connect to, if not what LND announces.
    pub advertise: Option<String>,
}

impl Settings {
    /// Host and port.
    pub(super) fn host_and_port(&self) -> Result<(String, u16), LndError> {
        let wrong = || LndError::Setting { name: "address", reason: format!("{:?} is not host:port", self.address) };
        let (host, port) = self.address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['/', '@']) {
            return Err(wrong());
        }
        Ok((host.to_owned(), port))
    }

    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, LndError> {
        let wrong = |reason: String| LndError::Setting { name: "tls_cert", reason };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.tls_cert.expose_secret()).collect();
        let found = found.map_err(|error| wrong(format!("it is not PEM ({error})")))?;
        if found.is_empty() {
            return Err(wrong("there is no certificate in it (it starts with -----BEGIN CERTIFICATE-----)".into()));
        }
        Ok(found)
    }

    /// The macaroon as LND wants it in a request: hex.
    pub(super) fn macaroon_hex(&self) -> Result<SecretString, LndError> {
        let wrong = |reason: &str| LndError::Setting { name: "macaroon", reason: reason.into() };
        let given = self.macaroon.expose_secret();
        if given.len() > MAX_MACAROON_BYTES {
            return Err(wrong("it is too long for a macaroon"));
        }
        let bytes = match given.first() {
            Some(&MACAROON_V2) => given.to_vec(),
            Some(_) | None => {
                let text: Vec<u8> = given.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
                let decoded = hex::decode(&text).ok();
                let decoded = decoded.or_else(|| STANDARD.decode(&text).ok()).or_else(|| URL_SAFE.decode(&text).ok());
                decoded.ok_or_else(|| wrong("it is neither a macaroon file nor its hex or base64"))?
            }
        };
        if bytes.first() != Some(&MACAROON_V2) {
            return Err(wrong("it is not a macaroon as LND makes them"));
        }
        Ok(SecretString::from(hex::encode(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str, macaroon: &[u8]) -> Settings {
        Settings {
            address: address.into(),
            tls_cert: SecretSlice::from(b"no certificate".to_vec()),
            macaroon: SecretSlice::from(macaroon.to_vec()),
            advertise: None,
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (address, host) in
            [("127.0.0.1:10009", "127.0.0.1"), ("node.example:1", "node.example"), ("[::1]:2", "::1")]
        {
            assert_eq!(settings(address, &[]).host_and_port().expect("an address").0, host);
        }
        for wrong in ["", "node", "node:", ":10009", "node:0", "node:70000", "https://node:10009", "me@node:1"] {
            assert!(settings(wrong, &[]).host_and_port().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_macaroon_may_be_binary_or_text_and_is_never_shown() {
        let bytes = [2, 1, 3, 108, 110, 100];
        let hex = hex::encode(bytes);
        for given in [bytes.to_vec(), format!("{hex}\n").into_bytes(), STANDARD.encode(bytes).into_bytes()] {
            assert_eq!(settings("a:1", &given).macaroon_hex().expect("read").expose_secret(), hex);
        }
        for wrong in [&b""[..], b"hush hush", b"0x02", b"7b7d"] {
            let error = settings("a:1", wrong).macaroon_hex().expect_err("refused").to_string();
            assert!(wrong.is_empty() || !error.contains(std::str::from_utf8(wrong).expect("text")), "{error}");
        }
        let shown = format!("{:?}", settings("a:1", b"hush hush"));
        assert!(!shown.contains("hush") && !shown.contains(&format!("{:?}", b"hush")), "{shown}");
    }

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        let error = settings("a:1", &[]).certificates().expect_err("refused").to_string();
        assert!(error.contains("tls_cert") && error.contains("BEGIN CERTIFICATE"), "{error}");
    }
}
