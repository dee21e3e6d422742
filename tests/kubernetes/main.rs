//! The project on a real Kubernetes: several nodes on this machine, started by `tests/run kubernetes`.
//!
//! The shell under `harness/` makes the machine room (`harness.sh` says what it can do); everything that is asserted
//! is here. The test program runs inside the cluster's network, so that pods, services and names are as near as they
//! are to an application, and it uses what a user uses: `kubectl`, `helm`, the client library.
//!
//! One case a test, in a namespace of its own that enforces the restricted Pod Security Standard; all of them share
//! one Kubernetes, a few at a time. A case that fails leaves logs, objects and events in a folder and says where.
//! Without a running harness every case is skipped by name.

mod certificates;
mod changes;
mod chart;
mod comings;
mod failures;
mod idle;
mod images;
mod install;
mod measures;
mod nodes;
mod register;
mod restored;
mod rules;
mod steps;
mod support;
mod torture;

#[path = "../../src/api/cases.rs"]
mod cases;

// What tortures local processes tortures these as well.
#[allow(dead_code, reason = "no wall clock is set here")]
#[path = "../torture/applications.rs"]
mod applications;
#[path = "../torture/dice.rs"]
mod dice;
#[path = "../torture/kinds.rs"]
mod kinds;
#[allow(dead_code, reason = "all that last end alike here")]
#[path = "../torture/lasting.rs"]
mod lasting;
#[allow(dead_code, reason = "nodes have namespaces already, which are only entered")]
#[path = "../torture/namespace.rs"]
mod namespace;
