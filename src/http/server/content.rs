//! Immutable content with an ETag: blobs from disk, transcripts from memory. Resumable by `Range`, cacheable by hash.

use std::io::{self, SeekFrom};
use std::path::Path;

use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::failure::Failure;
use super::range::{Selection, select};
use crate::protocol::ids::Blake3Hash;

/// Bytes read from disk at a time.
const CHUNK_BYTES: usize = 64 * 1_024;

/// Where the bytes are.
enum Source {
    Memory(Bytes),
    Disk(File),
}

/// How long a cache may answer by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caching(&'static str);

/// For ever: the address fixes the content.
pub(super) const FOR_EVER: Caching = Caching("public, max-age=31536000, immutable");
/// Caches must ask again: another run may be served at the same address.
pub(super) const REVALIDATE: Caching = Caching("no-cache");

/// Answers with a file whose content `tag` names.
pub(super) async fn file(
    path: &Path,
    tag: Blake3Hash,
    caching: Caching,
    request: &HeaderMap,
) -> Result<Response, Failure> {
    let open = async {
        let file = File::open(path).await?;
        let length = file.metadata().await?.len();
        Ok::<_, io::Error>((file, length))
    };
    let (file, length) = open.await.map_err(|error| Failure::internal(&format!("{}: {error}", path.display())))?;
    respond(Source::Disk(file), length, tag, request, ("application/octet-stream", caching)).await
}

/// Answers with JSON in memory.
pub(super) async fn bytes(bytes: Vec<u8>, request: &HeaderMap) -> Result<Response, Failure> {
    let (digest, length) = (Blake3Hash::of(&bytes), bytes.len() as u64);
    respond(Source::Memory(bytes.into()), length, digest, request, ("application/json", REVALIDATE)).await
}

async fn respond(
    source: Source,
    length: u64,
    digest: Blake3Hash,
    request: &HeaderMap,
    (content_type, Caching(caching)): (&'static str, Caching),
) -> Result<Response, Failure> {
    let etag = format!("\"{digest}\"");
    let (status, first, send) = match wanted(request, &etag, length)? {
        Wanted::Nothing => (StatusCode::NOT_MODIFIED, 0, 0),
        Wanted::Whole => (StatusCode::OK, 0, length),
        Wanted::Part { first, last } => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
    };
    let body = match (status, source) {
        (StatusCode::NOT_MODIFIED, _) => Body::empty(),
        (_, source) => {
            body(source, first, send).await.map_err(|error| Failure::internal(&format!("content {digest}: {error}")))?
        }
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(ETAG, header(&etag)?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONTENT_LENGTH, send.into());
    }
    if status == StatusCode::PARTIAL_CONTENT {
        headers.insert(CONTENT_RANGE, header(&format!("bytes {first}-{}/{length}", first + send - 1))?);
    }
    Ok(response)
}

enum Wanted {
    Nothing,
    Whole,
    Part { first: u64, last: u64 },
}

fn wanted(request: &HeaderMap, etag: &str, length: u64) -> Result<Wanted, Failure> {
    let text = |name| request.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let matches = |tag: &str| tag == "*" || tag.trim_start_matches("W/") == etag;
    if text(IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|tag| matches(tag.trim()))) {
        return Ok(Wanted::Nothing);
    }
    // A range of what the client has must not be glued to a range of something else.
    let same = text(IF_RANGE).is_none_or(|tag| tag.trim() == etag);
    match text(RANGE).filter(|_| same).map_or(Selection::Whole, |range| select(range, length)) {
        Selection::Whole => Ok(Wanted::Whole),
        Selection::Part { first, last } => Ok(Wanted::Part { first, last }),
        Selection::Unsatisfiable => Err(Failure::range_not_satisfiable(length)),
    }
}

/// `send` bytes from `first` on.
async fn body(source: Source, first: u64, send: u64) -> io::Result<Body> {
    match source {
        Source::Memory(bytes) => {
            let range = usize::try_from(first).ok().zip(usize::try_from(first + send).ok());
            let (start, end) = range.ok_or(io::ErrorKind::InvalidInput)?;
            Ok(Body::from(bytes.slice(start..end)))
        }
        Source::Disk(mut file) => {
            file.seek(SeekFrom::Start(first)).await?;
            Ok(Body::from_stream(stream::try_unfold((file, send), |(file, left)| read_chunk(file, left))))
        }
    }
}

async fn read_chunk(mut file: File, left: u64) -> io::Result<Option<(Bytes, (File, u64))>> {
    if left == 0 {
        return Ok(None);
    }
    let size = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
    let mut chunk = vec![0; size];
    let read = file.read(&mut chunk).await?;
    if read == 0 {
        // Shorter than promised: cutting the connection tells the client that the body isn't whole.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    chunk.truncate(read);
    Ok(Some((chunk.into(), (file, left - read as u64))))
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(text).map_err(|_| Failure::internal("a header of ours is not valid"))
}
