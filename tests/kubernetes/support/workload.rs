//! Applications at work: they put and read the same keys at once, and write down what they asked and what they got.

use std::sync::Arc;
use std::time::{Duration, Instant};

use armdb::client::{Client, WriteError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::PATIENCE;
use super::history::{Event, History, Operation};

/// Few, so that the applications meet on them.
const KEYS: u64 = 16;
/// Between two operations of one application: what is measured is the cluster, not how full this machine is.
const PAUSE: Duration = Duration::from_millis(2);

/// See the module.
pub struct Workload {
    client: Client,
    prefix: String,
    stop: watch::Sender<bool>,
    acknowledged: Arc<watch::Sender<u64>>,
    tasks: Vec<JoinHandle<Vec<Operation>>>,
}

impl Workload {
    /// Starts `applications` of them, on keys that begin with `prefix`; no two workloads may share one.
    pub fn start(client: &Client, prefix: &str, applications: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let acknowledged = Arc::new(watch::channel(0).0);
        let application = |number| {
            let work = Application {
                client: client.clone(),
                prefix: prefix.to_owned(),
                number,
                stopped: stopped.clone(),
                acknowledged: Arc::clone(&acknowledged),
            };
            tokio::spawn(work.run())
        };
        let tasks = (0..applications).map(application).collect();
        Self { client: client.clone(), prefix: prefix.to_owned(), stop, acknowledged, tasks }
    }

    /// Waits until this many more writes are acknowledged.
    pub async fn acknowledges(&self, more: u64) {
        let mut count = self.acknowledged.subscribe();
        let goal = *count.borrow() + more;
        let reached = tokio::time::timeout(PATIENCE, count.wait_for(|count| *count >= goal)).await;
        reached.unwrap_or_else(|_| panic!("{more} writes are not acknowledged")).expect("the workload runs");
    }

    /// Stops them, reads every key once more, and judges: fails if anything acknowledged is lost or any read was stale.
    pub async fn finish(self) -> History {
        self.stop.send_replace(true);
        let mut history = History::default();
        for task in self.tasks {
            history.operations.extend(task.await.expect("an application ends"));
        }
        for number in 0..KEYS {
            let key = format!("{}/{number}", self.prefix);
            let read = read(&self.client, key).await;
            assert!(matches!(read.event, Event::Read(_)), "the last read must be answered: {read:?}");
            history.operations.push(read);
        }
        let violations = history.violations();
        assert!(
            violations.is_empty(),
            "{} violations: {:#?}",
            violations.len(),
            &violations[..violations.len().min(10)]
        );
        history
    }
}

/// One of them.
struct Application {
    client: Client,
    prefix: String,
    number: u64,
    stopped: watch::Receiver<bool>,
    acknowledged: Arc<watch::Sender<u64>>,
}

impl Application {
    async fn run(self) -> Vec<Operation> {
        let mut operations = Vec::new();
        let mut turn = 0_u64;
        while !*self.stopped.borrow() {
            // A stride that is prime to the number of keys, different for each: they meet in every order.
            let key = format!("{}/{}", self.prefix, (self.number * 5 + turn * (2 * self.number + 1)) % KEYS);
            let operation = if turn % 3 == 2 {
                read(&self.client, key).await
            } else {
                let written = write(&self.client, key, format!("{}-{turn}", self.number)).await;
                if matches!(written.event, Event::Written(_)) {
                    self.acknowledged.send_modify(|count| *count += 1);
                }
                written
            };
            operations.push(operation);
            turn += 1;
            tokio::time::sleep(PAUSE).await;
        }
        operations
    }
}

async fn write(client: &Client, key: String, value: String) -> Operation {
    let began = Instant::now();
    let outcome = client.put(key.clone(), value.clone()).await;
    let ended = Instant::now();
    let event = match outcome {
        Ok(_) => Event::Written(value),
        Err(WriteError::Indeterminate { .. }) => Event::Unknown(value),
        Err(WriteError::NotDone(why)) => Event::Refused(value, why.to_string()),
    };
    Operation { key, began, ended, event }
}

async fn read(client: &Client, key: String) -> Operation {
    let began = Instant::now();
    let outcome = client.get(key.clone()).await;
    let ended = Instant::now();
    let event = match outcome {
        Ok(value) => Event::Read(value.map(|value| String::from_utf8_lossy(&value.bytes).into_owned())),
        Err(why) => Event::Unread(why.to_string()),
    };
    Operation { key, began, ended, event }
}
