//! The applications, in two places of the network.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use armdb::checker::History;
use armdb::client::ClientOptions;
use parking_lot::Mutex;

use super::applications::Applications;
use super::namespace::within;
use super::site::{CLIENT_PLACES, Site};

/// Applications in each place.
const APPLICATIONS: u32 = 5;

/// See the module.
pub struct Workload {
    applications: Arc<Applications>,
    options: ClientOptions,
    threads: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Starts it.
    pub fn start(site: &Site, seed: u64) -> Self {
        let applications = Arc::new(Applications::new(CLIENT_PLACES as u32 * APPLICATIONS));
        let options = site.client_options();
        let place = |place: usize| {
            let (applications, options) = (Arc::clone(&applications), options.clone());
            within(path(site, place), move || async move {
                let first = place as u32 * APPLICATIONS;
                applications.run(options, first..first + APPLICATIONS, seed).await;
            })
        };
        let threads = (0..CLIENT_PLACES).map(place).collect();
        Self { applications, options, threads }
    }

    /// Waits until this many more writes are acknowledged; false = they are not after so many looks.
    pub async fn acknowledges(&self, more: u64, look: Duration, looks: u32) -> bool {
        self.applications.acknowledges(more, look, looks).await
    }

    /// See [`Applications::expect_short_lives`].
    pub fn expect_short_lives(&self) {
        self.applications.expect_short_lives();
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.applications.stop();
        for thread in self.threads.drain(..) {
            joined(thread);
        }
    }

    /// Reads every key once more, from the leader and from each member; what differs between them.
    pub fn read_everything(&self, site: &Site) -> Vec<String> {
        let (applications, options) = (Arc::clone(&self.applications), self.options.clone());
        let members: Vec<(String, String)> =
            site.cluster.file().members.into_iter().map(|member| (member.name, member.client.to_string())).collect();
        let differences = Arc::new(Mutex::new(Vec::new()));
        let found = Arc::clone(&differences);
        let reading = within(path(site, 0), move || async move {
            *found.lock() = applications.differences(options, &members).await;
        });
        joined(reading);
        std::mem::take(&mut differences.lock())
    }

    /// How many operations ended how, in words.
    pub fn told(&self) -> String {
        self.applications.told()
    }

    /// What was written down.
    pub fn history(&self) -> History {
        self.applications.history()
    }
}

/// Waits for it; if it panics, the caller does, with the same words.
fn joined(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The network of a place of the clients.
fn path(site: &Site, place: usize) -> String {
    site.wire.namespaces()[site.members + 1 + place].path()
}
