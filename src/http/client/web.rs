//! One GET of any resource on the web: what the answer's head says, and its bytes as they come.
//!
//! It follows no redirect, since credentials are for one origin, and tries nothing twice: the caller knows what that costs.

use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderName, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
    WWW_AUTHENTICATE,
};
use reqwest::{Client, Response, StatusCode, Url};

use super::transport::{describe, retry_after};

const CONNECT: Duration = Duration::from_secs(10);
/// For the head of an answer, and for the next bytes of its body. A gate may have to make an invoice first.
const STALL: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Not something to GET.
    #[error("{url:?} can't be fetched: {reason}")]
    BadUrl {
        /// As given, shortened.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client can't be set up: {0}")]
    SetUp(String),
    /// Nobody answered, or the connection broke.
    #[error("{host} gave no whole answer: {reason}")]
    Broken {
        /// Who.
        host: String,
        /// The cause.
        reason: String,
    },
}

/// A resource's address, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl(Url);

impl WebUrl {
    /// Reads an `http` or `https` URL without a user and a password in it.
    pub fn parse(text: &str) -> Result<Self, WebError> {
        let bad = |reason: &str| WebError::BadUrl { url: text.chars().take(200).collect(), reason: reason.into() };
        let mut url = Url::parse(text.trim()).map_err(|error| bad(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(bad("it is neither http:// nor https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it has a user name in it"));
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Scheme, host and port: whom credentials are for.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The last part of the path, if it can be a file's name.
    pub fn file_name(&self) -> Option<&str> {
        let name = self.0.path_segments()?.next_back()?;
        (!matches!(name, "" | "." | "..") && !name.contains(['%', '\\'])).then_some(name)
    }
}

/// What is wanted of a resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// From this byte on, if it is still what `validator` names.
    pub rest: Option<Rest<'a>>,
}

/// The rest of something whose beginning is here.
#[derive(Clone, Copy, Debug)]
pub struct Rest<'a> {
    /// How many bytes are here.
    pub from: u64,
    /// The entity tag or date of that beginning.
    pub validator: &'a str,
}

/// A client for any server.
#[derive(Clone, Debug)]
pub struct WebClient(Client);

impl WebClient {
    /// For a resource at `url`.
    pub fn new(url: &WebUrl) -> Result<Self, WebError> {
        // An error means that a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("l402t/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if url.0.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        builder.build().map(Self).map_err(|error| WebError::SetUp(describe(&error)))
    }

    /// Asks once.
    pub async fn get(&self, url: &WebUrl, wanted: Wanted<'_>) -> Result<Reply, WebError> {
        let mut request = self.0.get(url.0.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(authorization) = wanted.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(Rest { from, validator }) = wanted.rest {
            request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, validator);
        }
        let host = url.0.host_str().unwrap_or_default().to_owned();
        match request.send().await {
            Ok(response) => Ok(Reply { response, host }),
            Err(error) => Err(WebError::Broken { host, reason: describe(&error) }),
        }
    }
}

/// Which bytes a 206 brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first.
    pub first: u64,
    /// Of how many, if the server knows.
    pub total: Option<u64>,
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub struct Reply {
    response: Response,
    host: String,
}

impl Reply {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// All `WWW-Authenticate` headers.
    pub fn challenges(&self) -> Vec<String> {
        let all = self.response.headers().get_all(WWW_AUTHENTICATE);
        all.iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }

    /// What tells this content from a later one: a strong entity tag, or else the date of its last change.
    pub fn validator(&self) -> Option<&str> {
        self.text(&ETAG).filter(|tag| tag.starts_with('"')).or_else(|| self.text(&LAST_MODIFIED))
    }

    /// The body's length, if the server says it.
    pub fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// What a 206 brings: up to the end, whole.
    pub fn part(&self) -> Option<Part> {
        if self.status() != StatusCode::PARTIAL_CONTENT {
            return None;
        }
        let (range, total) = self.text(&CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        if total == "*" {
            return (first <= last).then_some(Part { first, total: None });
        }
        let total: u64 = total.parse().ok()?;
        (first <= last && last.checked_add(1)? == total).then_some(Part { first, total: Some(total) })
    }

    /// Where a redirect leads.
    pub fn location(&self) -> Option<&str> {
        self.text(&LOCATION)
    }

    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.response)
    }

    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + Send + use<>>, WebError> {
        let chunk = self.response.chunk().await;
        chunk.map_err(|error| WebError::Broken { host: self.host.clone(), reason: describe(&error) })
    }

    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok().map(str::trim)
    }
}
