//! Reading the file: bytes to lines, lines to records. A line is never larger than [`LINE_BYTES`], whatever the file.

use std::io::{BufRead, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::{Map, Value as Json};

/// The longest line that is read; twice the largest value a server takes by default.
const LINE_BYTES: u64 = 16 << 20;

/// Which fields of a line hold the key and the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) key: String,
    /// None: the whole line.
    pub(super) value: Option<String>,
    /// A line without the value's field is a value as a whole.
    value_optional: bool,
}

impl Fields {
    pub(super) fn new(key: Option<&str>, value: Option<&str>) -> Self {
        match (key, value) {
            (None, None) => Self { key: "key".into(), value: Some("value".into()), value_optional: true },
            (key, value) => {
                Self { key: key.unwrap_or("key").to_owned(), value: value.map(str::to_owned), value_optional: false }
            }
        }
    }

    /// Key and value of a line (without its line end).
    pub(super) fn read(&self, line: &Bytes) -> Result<(Bytes, Bytes), String> {
        let object: Map<String, Json> = serde_json::from_slice(line).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => "not a JSON object".to_owned(),
            // The "line" of a parser that is given one line is always 1.
            _ => format!("broken JSON: {}", error.to_string().replace(" at line 1 column", " at column")),
        })?;
        let key = field(&object, &self.key)?.ok_or_else(|| format!("there is no field {:?}", self.key))?;
        if key.is_empty() {
            return Err(format!("the key in field {:?} is empty", self.key));
        }
        let value = match &self.value {
            None => None,
            Some(_) if self.value_optional => {
                // Something else than text under that name makes the line a document, not a pair.
                field(&object, "value").unwrap_or(None)
            }
            Some(name) => Some(field(&object, name)?.ok_or_else(|| format!("there is no field {name:?}"))?),
        };
        Ok((key, value.unwrap_or_else(|| line.clone())))
    }
}

/// The bytes of a text field, or of its `…Base64` form.
fn field(object: &Map<String, Json>, name: &str) -> Result<Option<Bytes>, String> {
    match object.get(name) {
        Some(Json::String(text)) => return Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
        Some(_) => return Err(format!("field {name:?} is not text")),
        None => {}
    }
    let encoded = format!("{name}Base64");
    match object.get(&encoded) {
        Some(Json::String(text)) => {
            let bytes = BASE64.decode(text).map_err(|error| format!("field {encoded:?} is not base64: {error}"))?;
            Ok(Some(bytes.into()))
        }
        Some(_) => Err(format!("field {encoded:?} is not text")),
        None => Ok(None),
    }
}

/// One line to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Its number in the file, from 1.
    pub(super) line: u64,
    /// Where the next line begins.
    pub(super) end: u64,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// Why reading stopped before the end.
#[derive(Debug)]
pub(super) enum ReadFault {
    Line { line: u64, cause: String },
    Io(std::io::Error),
}

/// The records of a file, in order. Empty lines are passed over.
pub(super) struct Records<R> {
    source: R,
    fields: Fields,
    line: u64,
    offset: u64,
}

impl<R: BufRead> Records<R> {
    /// `source` stands at `offset`, after `line` lines.
    pub(super) fn new(source: R, fields: Fields, line: u64, offset: u64) -> Self {
        Self { source, fields, line, offset }
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, ReadFault> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.source).take(LINE_BYTES + 1).read_until(b'\n', &mut bytes).map_err(ReadFault::Io)?;
            if read == 0 {
                return Ok(None);
            }
            let line = self.line + 1;
            if read as u64 > LINE_BYTES {
                let cause = format!("longer than {} MiB", LINE_BYTES >> 20);
                return Err(ReadFault::Line { line, cause });
            }
            let end = self.offset + read as u64;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
                if bytes.last() == Some(&b'\r') {
                    bytes.pop();
                }
            }
            if bytes.iter().all(u8::is_ascii_whitespace) {
                (self.line, self.offset) = (line, end);
                continue;
            }
            let (key, value) =
                self.fields.read(&Bytes::from(bytes)).map_err(|cause| ReadFault::Line { line, cause })?;
            (self.line, self.offset) = (line, end);
            return Ok(Some(Record { line, end, key, value }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &Fields, line: &str) -> Result<(String, String), String> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("text");
        fields.read(&Bytes::copy_from_slice(line.as_bytes())).map(|(key, value)| (text(key), text(value)))
    }

    #[test]
    fn a_pair_is_taken_apart_and_a_document_is_kept_as_it_is() {
        let pair = Fields::new(None, None);
        assert_eq!(read(&pair, r#"{"key":"a","value":"1"}"#), Ok(("a".into(), "1".into())));
        assert_eq!(read(&pair, r#"{"keyBase64":"YQ==","valueBase64":"MQ=="}"#), Ok(("a".into(), "1".into())));
        let document = r#"{ "key":"a",  "n":1.0 }"#;
        assert_eq!(read(&pair, document), Ok(("a".into(), document.into())));
        let document = r#"{"key":"a","value":{"n":1}}"#;
        assert_eq!(read(&pair, document), Ok(("a".into(), document.into())));
        let named = r#"{"Package":"zlib1g","value":"x","Version":"1"}"#;
        assert_eq!(read(&Fields::new(Some("Package"), None), named), Ok(("zlib1g".into(), named.into())));
        assert_eq!(read(&Fields::new(Some("Package"), Some("Version")), named), Ok(("zlib1g".into(), "1".into())));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let pair = Fields::new(None, None);
        for (line, told) in [
            (r#"{"key":"a""#, "broken JSON"),
            (r#"{"key":"a"} x"#, "broken JSON"),
            ("[1]", "not a JSON object"),
            (r#"{"k":"a"}"#, "no field \"key\""),
            (r#"{"key":7}"#, "\"key\" is not text"),
            (r#"{"key":""}"#, "is empty"),
            (r#"{"keyBase64":"?"}"#, "not base64"),
        ] {
            let error = read(&pair, line).expect_err(line);
            assert!(error.contains(told), "{line}: {error}");
        }
        assert!(read(&Fields::new(None, Some("v")), r#"{"key":"a"}"#).expect_err("no v").contains("no field \"v\""));
    }

    #[test]
    fn lines_are_counted_with_empty_ones_and_with_or_without_a_last_line_end() {
        let text = "{\"key\":\"a\"}\r\n\n  \n{\"key\":\"b\"}";
        let mut records = Records::new(text.as_bytes(), Fields::new(None, None), 0, 0);
        let a = records.next().expect("reads").expect("a");
        assert_eq!((a.line, a.end, a.value.as_ref()), (1, 13, br#"{"key":"a"}"#.as_ref()));
        let b = records.next().expect("reads").expect("b");
        assert_eq!((b.line, b.end), (4, text.len() as u64));
        assert!(records.next().expect("reads").is_none());
    }

    #[test]
    fn a_broken_line_is_told_by_its_number_and_an_endless_one_takes_bounded_memory() {
        let mut records = Records::new("{\"key\":\"a\"}\n\n{\n".as_bytes(), Fields::new(None, None), 0, 0);
        records.next().expect("reads");
        assert!(matches!(records.next(), Err(ReadFault::Line { line: 3, .. })));
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let mut records = Records::new(endless, Fields::new(None, None), 6, 100);
        assert!(matches!(records.next(), Err(ReadFault::Line { line: 7, .. })));
    }
}
