//! The client services over a stand-in for the replicated member, through real connections on loopback.

mod alarms;
mod bounds;
mod garbage;
mod members;
mod operations;
mod order;
mod outcomes;
mod reads;
mod stand_in;
mod tls;
