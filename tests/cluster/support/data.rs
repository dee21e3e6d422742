//! Manifests, as small as a scenario allows.

use std::path::Path;

/// A manifest in the making.
#[derive(Debug, Clone)]
pub struct Manifest {
    replicas: u32,
    shards: u32,
    extra: String,
}

impl Manifest {
    /// This many members of one shard.
    pub fn members(replicas: u32) -> Self {
        Self { replicas, shards: 1, extra: String::new() }
    }

    /// With another number of shards.
    pub fn shards(self, shards: u32) -> Self {
        Self { shards, ..self }
    }

    /// With more lines of the spec, without their indentation.
    pub fn with(mut self, line: &str) -> Self {
        self.extra.push_str(&format!("  {line}\n"));
        self
    }

    /// How many members.
    pub fn replicas(&self) -> usize {
        self.replicas as usize
    }

    /// As YAML.
    pub fn text(&self) -> String {
        let Self { replicas, shards, extra } = self;
        format!(
            "apiVersion: armdb.io/v1alpha1\nkind: ArmdbCluster\nmetadata:\n  name: kv\nspec:\n  \
             image: ghcr.io/example/armdb:0.1.0\n  replicas: {replicas}\n  storage: {{size: 1Gi, shards: {shards}}}\n\
             {extra}"
        )
    }

    /// Writes it to `path`.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.text()).expect("the manifest is written");
    }
}
