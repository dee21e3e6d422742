//! What every client service shares: the member, its identity, the limits, the measurements.

use std::sync::Arc;

use tokio::sync::watch;

use super::config::Limits;
use super::errors::Refused;
use super::metrics::Metrics;
use super::replica::{Leadership, Replica, led_epoch};
use crate::engine::{Shard, TreeId, TreeInfo, TreeKind, slot};
use crate::net::proto;
use crate::position::{Epoch, Gsn, LogPosition};

/// Who answers, as clients are told.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub cluster: String,
    pub partition: u32,
    pub member: String,
    /// Where clients reach this member.
    pub client_address: String,
}

/// Shared by all connections of the client port.
pub(crate) struct Core {
    pub replica: Arc<dyn Replica>,
    leadership: watch::Receiver<Leadership>,
    pub identity: Identity,
    pub limits: Limits,
    /// What a write waits for when it does not say.
    pub default_ack: proto::AckLevel,
    pub metrics: Arc<Metrics>,
    /// Turns true once: finish what is in flight, take nothing new.
    pub stopping: watch::Receiver<bool>,
}

impl Core {
    pub(crate) fn new(
        replica: Arc<dyn Replica>,
        identity: Identity,
        limits: Limits,
        default_ack: proto::AckLevel,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let leadership = replica.leadership();
        Arc::new(Self { replica, leadership, identity, limits, default_ack, metrics, stopping })
    }

    pub(crate) fn shards(&self) -> &[Arc<Shard>] {
        self.replica.engine().shards()
    }

    pub(crate) fn shard(&self, shard: u16) -> &Arc<Shard> {
        &self.shards()[usize::from(shard)]
    }

    pub(crate) fn shard_of(&self, key: &[u8]) -> u16 {
        // Shard counts are at most 64, checked at format.
        slot::shard_of(key, self.shards().len() as u16)
    }

    pub(crate) fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    pub(crate) fn led_epoch(&self) -> Option<Epoch> {
        led_epoch(&self.leadership.borrow())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Refuses a request for another partition. A request without a route is answered: there is one at least.
    pub(crate) fn check_route(&self, route: Option<&proto::Route>) -> Result<(), Refused> {
        match route {
            Some(route) if route.partition != self.identity.partition => {
                Err(Refused::wrong_partition(route.partition, self.identity.partition))
            }
            _ => Ok(()),
        }
    }

    /// The tree of a name; empty is the default tree.
    pub(crate) fn tree(&self, name: &str) -> Result<TreeId, Refused> {
        if name.is_empty() || name == "default" {
            return Ok(TreeId::DEFAULT);
        }
        self.tree_info(name).map(|tree| tree.id)
    }

    /// The tree of a name, if it can be scanned.
    pub(crate) fn ordered_tree(&self, name: &str) -> Result<TreeId, Refused> {
        if name.is_empty() || name == "default" {
            return Ok(TreeId::DEFAULT);
        }
        let tree = self.tree_info(name)?;
        match tree.kind {
            TreeKind::Ordered => Ok(tree.id),
            TreeKind::Hash => Err(Refused::invalid(format!("tree {name:?} is a hash tree: it has no order to scan"))),
        }
    }

    fn tree_info(&self, name: &str) -> Result<TreeInfo, Refused> {
        self.replica.engine().tree(name).ok_or_else(|| {
            Refused::invalid(format!("tree {name:?} is unknown: create it first (armdb trees --create NAME)"))
        })
    }

    /// Refuses what no tree can hold as a key.
    pub(crate) fn check_key(&self, key: &[u8]) -> Result<(), Refused> {
        if key.is_empty() {
            return Err(Refused::invalid("the key is empty: a key has at least one byte"));
        }
        if key.len() as u64 > MAX_KEY_BYTES {
            return Err(Refused::too_large("key", MAX_KEY_BYTES));
        }
        Ok(())
    }

    /// A place in a shard's history, as clients carry it.
    pub(crate) fn position(&self, lineage: u64, shard: u16, at: LogPosition) -> proto::Position {
        proto::Position {
            partition: self.identity.partition,
            shard: u32::from(shard),
            lineage,
            epoch: at.epoch,
            gsn: at.gsn,
        }
    }

    pub(crate) fn lineage(&self) -> u64 {
        self.replica.engine().lineage()
    }

    /// Positions of `gsns`, one a shard, as a token.
    pub(crate) fn token(&self, gsns: &[Gsn]) -> proto::Token {
        let lineage = self.lineage();
        let positions = self
            .shards()
            .iter()
            .zip(gsns)
            .map(|(shard, &gsn)| {
                let epoch = shard.epoch_table().epoch_at(gsn);
                self.position(lineage, shard.id(), LogPosition::new(epoch, gsn))
            })
            .collect();
        proto::Token { positions }
    }

    /// The positions of a token that concern this partition, by shard.
    pub(crate) fn positions_of(&self, token: &proto::Token) -> Result<Vec<(u16, LogPosition)>, Refused> {
        let lineage = self.lineage();
        let mut positions = Vec::with_capacity(token.positions.len());
        for position in token.positions.iter().filter(|p| p.partition == self.identity.partition) {
            if position.shard as usize >= self.shards().len() {
                return Err(Refused::invalid(format!(
                    "the position names shard {}, this partition has {}",
                    position.shard,
                    self.shards().len()
                )));
            }
            if position.lineage != lineage {
                return Err(Refused::history_lost(format!(
                    "the position is of lineage {}, this partition is of lineage {lineage}: its history was given up",
                    position.lineage
                )));
            }
            positions.push((position.shard as u16, LogPosition::new(position.epoch, position.gsn)));
        }
        Ok(positions)
    }
}

/// Longest key: its length has two bytes in a record.
pub(crate) const MAX_KEY_BYTES: u64 = u16::MAX as u64;
