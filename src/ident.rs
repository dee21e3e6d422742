//! Identities: random 128-bit numbers, written as 32 lower-case hex digits.
//!
//! Pod names, ordinals and addresses are *addresses*; only these are identities. The three kinds are
//! separate types so that a storage id can never be passed where a cluster id is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string that is not 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: 32 hex digits are wanted")]
pub struct ParseIdError(String);

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl $name {
            /// A fresh identity from the operating system's randomness.
            ///
            /// # Panics
            /// If the operating system has no randomness to give: nothing here may run without it.
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
                Self(u128::from_le_bytes(bytes))
            }

            /// Sixteen little-endian bytes, as on disk and on the wire.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_le_bytes()
            }

            /// The inverse of [`Self::to_bytes`].
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_le_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(ParseIdError(text.to_owned()));
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| ParseIdError(text.to_owned()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

identity! {
    /// The cluster's identity, made once at bootstrap; never a Kubernetes UID, because a cluster whose
    /// volumes were kept can come back under a new object.
    ClusterId
}
identity! {
    /// Storage id: made when a volume is formatted, and *the* identity of the data on it.
    Sid
}
identity! {
    /// One run of a member process.
    InstanceId
}
identity! {
    /// One attempt at `ChangeEpoch`: the nonce that makes DECIDE exclusive to the attempt that allocated.
    AttemptId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_its_bytes() {
        let id = Sid(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string(), "0123456789abcdef0011223344556677");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(Sid::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn what_is_not_32_hex_digits_is_refused() {
        for bad in ["", "12", "+123456789abcdef0011223344556677", "0123456789abcdef00112233445566zz"] {
            assert!(bad.parse::<Sid>().is_err(), "{bad}");
        }
    }
}
