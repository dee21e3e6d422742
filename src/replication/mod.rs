//! Log shipping: from a leader's log to any number of followers, and what an acknowledgement means.
//!
//! ```text
//! rules          PURE: promises, fencing, quorum, leases, reconciliation, outcomes
//! member_state   what the parts below share; the commit thread
//! roles          Init, FENCE, PROMOTE, FOLLOW carried out, one at a time
//! term           a term of leadership as it runs
//! server         the leading side of a stream      cursor   where a follower stands: streaming or catch-up
//! client         the following side                tail_fetch   ASSEMBLE    full_sync   a copy while writes go on
//! mend           single entries for files that rotted
//! heartbeat      leases, silence, staleness; on a thread of its own
//! told           what is published of figures that several threads change
//! protocol       between the wire and plain values
//! ```

pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod cursor;
pub(crate) mod full_sync;
pub(crate) mod heartbeat;
pub mod leadership;
pub(crate) mod member_state;
pub(crate) mod mend;
pub mod protocol;
pub(crate) mod roles;
pub mod rules;
pub(crate) mod server;
pub(crate) mod shard_time;
pub(crate) mod tail_fetch;
pub(crate) mod term;
pub(crate) mod told;
