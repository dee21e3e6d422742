//! Who leads, who votes, and when that changes: pure decisions.
//!
//! Observations go in, actions come out. Nothing here reads a clock, a socket, a disk or Kubernetes: time is
//! an argument (`now`, monotonic since the controller started), randomness is a seed, the register is
//! whatever the driver reads and compare-and-swaps. The same code is driven by `local` (a file as the
//! register, child processes as members), by the operator, and by the simulation.
//!
//! Safety rests on three things only: epochs allocated by compare-and-swap, durable promises at a read
//! quorum, and the log rules in [`crate::replication::rules`]. Vertical Paxos (MSR-TR-2009-63), PacificA
//! (MSR-TR-2008-25), with a Raft log.

pub mod controller;
pub mod message;
pub mod notice;
pub mod random;
pub mod register;
pub mod spec;
pub mod view;
