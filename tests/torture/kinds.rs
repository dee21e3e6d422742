//! Kinds of faults: each is named once, with how often it comes and what it is called.

/// Makes the enum `Kind` of lines `Name weight "in words",`.
macro_rules! kinds {
    ($($kind:ident $weight:literal $text:literal,)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($kind,)* }

        impl Kind {
            const ALL: &[(Kind, u64, &'static str)] = &[$((Kind::$kind, $weight, $text),)*];

            /// What it is called.
            pub fn text(self) -> &'static str {
                Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(.., text)| text)
            }

            /// One of them, by their weights.
            pub fn draw(dice: &mut $crate::dice::Dice) -> Self {
                let total = Self::ALL.iter().map(|(_, weight, _)| weight).sum();
                let mut drawn = dice.below(total);
                for (kind, weight, _) in Self::ALL {
                    if drawn < *weight {
                        return *kind;
                    }
                    drawn -= weight;
                }
                unreachable!("the weights add up to the total")
            }
        }
    };
}

pub(crate) use kinds;
