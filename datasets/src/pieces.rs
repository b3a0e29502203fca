//! A file as pieces of text, in order: a document, or a part of a long one that ends with a line where it can.
//!
//! Where a piece ends is a function of the file's bytes alone: two machines must get the same tokens.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::DatasetError;
use crate::files::{DatasetFile, Format, Packing};
use crate::parquet::Rows;

/// Longest piece of text.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// Longest line of JSON.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// Some text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// Is it its document's last?
    pub(crate) end: End,
}

/// What comes after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More of the document.
    OfPart,
    /// Another document, or nothing.
    OfDocument,
}

/// The pieces of a file.
pub(crate) struct Pieces {
    path: PathBuf,
    documents: Documents,
    waiting: VecDeque<Piece>,
    /// Has there been any?
    found: bool,
}

enum Documents {
    /// Text comes in pieces by itself; the offset is that of the bytes kept.
    Text {
        from: Box<dyn Read>,
        kept: Vec<u8>,
        offset: u64,
        ended: bool,
    },
    Lines {
        from: Box<dyn BufRead>,
        line: u64,
        field: String,
    },
    Rows(Box<Rows>),
}

impl Pieces {
    /// Opens a file; `field` is the name of the text in a JSON object or a table.
    pub(crate) fn open(file: &DatasetFile, field: &str) -> Result<Self, DatasetError> {
        let documents = match file.format {
            // Tokens are no text; whoever calls has looked.
            Format::Text | Format::Tokens => {
                Documents::Text { from: unpacked(file)?, kept: Vec::new(), offset: 0, ended: false }
            }
            Format::JsonLines => Documents::Lines {
                from: Box::new(BufReader::with_capacity(1 << 18, unpacked(file)?)),
                line: 0,
                field: field.to_owned(),
            },
            Format::Parquet => Documents::Rows(Box::new(Rows::open(&file.path, field)?)),
        };
        Ok(Self { path: file.path.clone(), documents, waiting: VecDeque::new(), found: false })
    }

    fn refill(&mut self) -> Result<(), DatasetError> {
        match &mut self.documents {
            Documents::Text { from, kept, offset, ended } => {
                if !*ended {
                    self.waiting.extend(next_text(&self.path, from, kept, offset, ended)?);
                }
            }
            Documents::Lines { from, line, field } => {
                if let Some(text) = next_line(&self.path, from, line, field)? {
                    self.waiting.extend(parts(text));
                }
            }
            Documents::Rows(rows) => {
                if let Some(text) = rows.next_text()? {
                    self.waiting.extend(parts(text));
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Pieces {
    type Item = Result<Piece, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.waiting.is_empty()
            && let Err(error) = self.refill()
        {
            return Some(Err(error));
        }
        match self.waiting.pop_front() {
            Some(piece) => {
                self.found = true;
                Some(Ok(piece))
            }
            None if self.found => None,
            None => {
                self.found = true;
                Some(Err(DatasetError::Empty { path: self.path.clone() }))
            }
        }
    }
}

fn unpacked(file: &DatasetFile) -> Result<Box<dyn Read>, DatasetError> {
    let failed = || DatasetError::io("read", &file.path);
    let open = File::open(&file.path).map_err(failed())?;
    Ok(match file.packing {
        Packing::Plain => Box::new(open),
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(open))),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(open).map_err(failed())?),
    })
}

/// The next piece of a text that is one document. A text that ends with a piece has an empty one after it, so that the
/// document is seen to end.
fn next_text(
    path: &Path,
    from: &mut dyn Read,
    kept: &mut Vec<u8>,
    offset: &mut u64,
    ended: &mut bool,
) -> Result<Option<Piece>, DatasetError> {
    let wanted = PIECE_BYTES.saturating_sub(kept.len()) as u64;
    let read = from.take(wanted).read_to_end(kept).map_err(DatasetError::io("read", path))?;
    *ended = (read as u64) < wanted;
    if kept.is_empty() && *offset == 0 {
        return Ok(None);
    }
    let valid = match std::str::from_utf8(kept) {
        Ok(text) => text.len(),
        // A character that the next read completes.
        Err(error) if error.error_len().is_none() && !*ended => error.valid_up_to(),
        Err(error) => {
            return Err(DatasetError::NotUtf8 { path: path.to_owned(), offset: *offset + error.valid_up_to() as u64 });
        }
    };
    let cut = if *ended { valid } else { after_last_line(&kept[..valid]) };
    let rest = kept.split_off(cut);
    let text = String::from_utf8(std::mem::replace(kept, rest)).map_err(|error| DatasetError::NotUtf8 {
        path: path.to_owned(),
        offset: *offset + error.utf8_error().valid_up_to() as u64,
    })?;
    *offset += cut as u64;
    Ok(Some(Piece { text, end: if *ended { End::OfDocument } else { End::OfPart } }))
}

/// Where to cut a text: after its last line, or at its end if that would leave nothing.
fn after_last_line(text: &[u8]) -> usize {
    text.iter().rposition(|byte| *byte == b'\n').map_or(text.len(), |place| place + 1)
}

/// The text of the next line that isn't blank.
fn next_line(path: &Path, from: &mut dyn BufRead, line: &mut u64, field: &str) -> Result<Option<String>, DatasetError> {
    loop {
        let mut bytes = Vec::new();
        let read = from.take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes).map_err(DatasetError::io("read", path))?;
        if read == 0 {
            return Ok(None);
        }
        *line += 1;
        let refused = |problem: String| DatasetError::Line { path: path.to_owned(), line: *line, problem };
        if read as u64 == MAX_LINE_BYTES {
            return Err(refused(format!("is longer than {MAX_LINE_BYTES} bytes")));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| refused(format!("not JSON: {error}")))?;
        let serde_json::Value::Object(mut fields) = value else {
            return Err(refused("not a JSON object".into()));
        };
        return match fields.remove(field) {
            Some(serde_json::Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(refused(format!("its field {field:?} is not a string"))),
            None => {
                let others: Vec<&str> = fields.keys().take(8).map(String::as_str).collect();
                let problem = format!("no field {field:?}; it has {others:?}. Name the text's field in text_field");
                Err(refused(problem))
            }
        };
    }
}

/// Cuts a document into pieces.
fn parts(mut text: String) -> VecDeque<Piece> {
    let mut pieces = VecDeque::new();
    while text.len() > PIECE_BYTES {
        let end = text.floor_char_boundary(PIECE_BYTES);
        let rest = text.split_off(after_last_line(&text.as_bytes()[..end]));
        pieces.push_back(Piece { text: std::mem::replace(&mut text, rest), end: End::OfPart });
    }
    pieces.push_back(Piece { text, end: End::OfDocument });
    pieces
}
