//! The text column of a parquet file, some rows at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::DatasetError;

/// Rows that are decoded at a time.
const ROWS: usize = 64;

/// The rows of one column.
pub(crate) struct Rows {
    path: PathBuf,
    file: SerializedFileReader<File>,
    column: usize,
    /// Does a null take a definition level?
    optional: bool,
    next_group: usize,
    reader: Option<ColumnReaderImpl<ByteArrayType>>,
    waiting: VecDeque<ByteArray>,
    row: u64,
}

impl Rows {
    /// Opens the column called `field`, which must hold one string a row.
    pub(crate) fn open(path: &Path, field: &str) -> Result<Self, DatasetError> {
        let refused = |problem: String| DatasetError::Parquet { path: path.to_owned(), problem };
        let open = File::open(path).map_err(DatasetError::io("read", path))?;
        if open.metadata().map_err(DatasetError::io("read", path))?.len() == 0 {
            return Err(DatasetError::Empty { path: path.to_owned() });
        }
        let file = SerializedFileReader::new(open).map_err(|error| refused(damaged(&error)))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let named = schema.columns().iter().position(|column| column.path().string() == field);
        let Some(column) = named else {
            let others: Vec<String> = schema.columns().iter().take(8).map(|column| column.path().string()).collect();
            return Err(refused(format!(
                "no column {field:?}; it has {others:?}. Name the text's column in text_field"
            )));
        };
        let described = schema.column(column);
        if described.physical_type() != Type::BYTE_ARRAY || described.max_rep_level() > 0 {
            return Err(refused(format!("its column {field:?} holds no strings")));
        }
        let optional = described.max_def_level() > 0;
        let path = path.to_owned();
        Ok(Self { path, file, column, optional, next_group: 0, reader: None, waiting: VecDeque::new(), row: 0 })
    }

    /// The next row's text. Nulls are passed over.
    pub(crate) fn next_text(&mut self) -> Result<Option<String>, DatasetError> {
        while self.waiting.is_empty() {
            if !self.decode()? {
                return Ok(None);
            }
        }
        let Some(bytes) = self.waiting.pop_front() else { return Ok(None) };
        self.row += 1;
        match std::str::from_utf8(bytes.data()) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(error) => Err(self.refused(format!("text {} is not UTF-8: {error}", self.row))),
        }
    }

    /// Decodes some rows; false at the end.
    fn decode(&mut self) -> Result<bool, DatasetError> {
        let Some(reader) = &mut self.reader else {
            if self.next_group == self.file.num_row_groups() {
                return Ok(false);
            }
            let column =
                self.file.get_row_group(self.next_group).and_then(|group| group.get_column_reader(self.column));
            self.next_group += 1;
            self.reader = match column.map_err(|error| self.refused(damaged(&error)))? {
                ColumnReader::ByteArrayColumnReader(reader) => Some(reader),
                _ => return Err(self.refused("its column changes its type".into())),
            };
            return Ok(true);
        };
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let read = reader.read_records(ROWS, self.optional.then_some(&mut levels), None, &mut values);
        let (records, _, _) = read.map_err(|error| self.refused(damaged(&error)))?;
        if records == 0 {
            self.reader = None;
        }
        self.waiting.extend(values);
        Ok(true)
    }

    fn refused(&self, problem: String) -> DatasetError {
        DatasetError::Parquet { path: self.path.clone(), problem }
    }
}

fn damaged(error: &parquet::errors::ParquetError) -> String {
    format!("not a whole parquet file ({error}); copy it again")
}
