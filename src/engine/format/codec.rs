//! Reading and writing little-endian fields one after the other, for the structures that are not on the hot
//! path. A reader never panics: what cannot be read is [`Malformed`].

use crate::position::COUNT_MAX;

/// Why a field cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// The bytes end before the field does.
    #[error("the bytes end too early")]
    Short,
    /// See [`COUNT_MAX`].
    #[error("nothing counts up to {0}")]
    Uncountable(u64),
}

/// Fields from the front of a slice.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A `u64` that is counted up one by one.
    pub(crate) fn count(&mut self) -> Result<u64, Malformed> {
        let count = self.u64()?;
        if count > COUNT_MAX { Err(Malformed::Uncountable(count)) } else { Ok(count) }
    }

    /// A text preceded by its length as `u16`; what is not UTF-8 is shown as such.
    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        let len = self.u16()?;
        Ok(String::from_utf8_lossy(self.bytes(usize::from(len))?).into_owned())
    }
}

/// Fields at the end of a buffer.
#[derive(Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A text preceded by its length as `u16`, cut at 512 bytes.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        let mut end = text.len().min(512);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.u16(end as u16).bytes(&text.as_bytes()[..end])
    }
}
