//! Finds the line and column of a path in a YAML text.
//!
//! The YAML reader tells places only in its errors. So the text is read once more along the path with a visitor
//! that fails on arrival, and the error's place is the answer: the real parser's, for block and flow style,
//! quotes, anchors and all. Runs only when a fault is to be told.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::schema::{Path, Step};

/// Which end of a field is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its name.
    Key,
    /// Its value.
    Value,
}

/// Line and column, both from 1, of `path` in the `document`th document of `text`; of the nearest enclosing
/// field that is there when the path itself is not (a default, a merged field).
pub(crate) fn locate(text: &str, document: usize, path: &Path, place: Place) -> Option<(usize, usize)> {
    let steps = &path.0;
    if let Some(found) = try_locate(text, document, steps, place) {
        return Some(found);
    }
    (0..steps.len()).rev().find_map(|end| try_locate(text, document, &steps[..end], Place::Key))
}

fn try_locate(text: &str, document: usize, steps: &[Step], place: Place) -> Option<(usize, usize)> {
    for (number, yaml) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let result = if number == document { Walk { steps, place }.deserialize(yaml) } else { skip(yaml) };
        if let Err(error) = result {
            let arrived = number == document && error.to_string().contains(ARRIVED);
            return arrived.then(|| error.location().map(|place| (place.line(), place.column())))?;
        }
        if number == document {
            return None;
        }
    }
    None
}

fn skip(yaml: serde_yaml::Deserializer<'_>) -> Result<(), serde_yaml::Error> {
    use serde::Deserialize as _;
    IgnoredAny::deserialize(yaml).map(|_| ())
}

/// No text of a manifest is quoted in errors of this visitor, so this cannot be met by accident.
const ARRIVED: &str = "\u{1}arrived\u{1}";

/// Follows `steps`; fails where they end.
struct Walk<'a> {
    steps: &'a [Step],
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Walk<'_> {
    fn scalar<E: de::Error>(&self) -> Result<(), E> {
        if self.steps.is_empty() { Err(E::custom(ARRIVED)) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.steps.split_first() else {
            return Err(de::Error::custom(ARRIVED));
        };
        let Step::Field(wanted) = first else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        let stop_here = rest.is_empty() && self.place == Place::Key;
        while let Some(matched) = map.next_key_seed(Key { wanted, stop_here })? {
            if matched {
                map.next_value_seed(Walk { steps: rest, place: self.place })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.steps.split_first() else {
            return Err(de::Error::custom(ARRIVED));
        };
        let mut index = 0;
        loop {
            let more = if *first == Step::Index(index) {
                seq.next_element_seed(Walk { steps: rest, place: self.place })?.is_some()
            } else {
                seq.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_i128<E: de::Error>(self, _: i128) -> Result<(), E> {
        self.scalar()
    }
    fn visit_u128<E: de::Error>(self, _: u128) -> Result<(), E> {
        self.scalar()
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.scalar()
    }
    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.scalar()
    }
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        // A tagged value; nothing lies below it.
        Err(de::Error::custom(ARRIVED))
    }
}

/// Tells whether a key is the wanted one; fails on it if the key is where the path ends.
struct Key<'a> {
    wanted: &'a str,
    stop_here: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.stop_here) {
            (true, true) => Err(E::custom(ARRIVED)),
            (matched, _) => Ok(matched),
        }
    }
}
