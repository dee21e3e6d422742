//! Log shipping: from a leader's log to any number of followers, and what an acknowledgement means.

pub mod leadership;
pub mod protocol;
pub mod rules;
