//! Why `armdb local` does not run, each with what the reader can do about it.

use std::io;
use std::path::PathBuf;

/// A local cluster that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Another supervisor holds the directory.
    #[error("{} is in use: armdb local with pid {pid} runs this cluster", dir.display())]
    Running {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, as the lock file says.
        pid: String,
    },
    /// The directory belongs to a cluster of another name.
    #[error("{} holds cluster {found}, the manifest is of cluster {wanted}", dir.display())]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// The manifest's name.
        wanted: String,
    },
    /// Something that is fixed when the data is formatted has another value in the manifest.
    #[error("{what} of cluster {cluster} is {formatted} in the data in {} and {wanted} in the manifest; it is fixed when the data is formatted", dir.display())]
    Immutable {
        /// The field of the manifest.
        what: &'static str,
        /// The cluster.
        cluster: String,
        /// Where its data is.
        dir: PathBuf,
        /// As formatted.
        formatted: u32,
        /// As the manifest says now.
        wanted: u32,
    },
    /// The manifest asks for fewer members than exist.
    #[error("cluster {cluster} has {had} members in {} and the manifest asks for {wanted}; a local cluster is not made smaller", dir.display())]
    Shrunk {
        /// The cluster.
        cluster: String,
        /// Where its data is.
        dir: PathBuf,
        /// Members that exist.
        had: u32,
        /// Members the manifest asks for.
        wanted: u32,
    },
    /// `local.json` was written by a newer version.
    #[error("{} has format {found}, this version reads up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// `local.json` is not what this program writes.
    #[error("{} cannot be read", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No free ports were found.
    #[error("no {wanted} free ports on 127.0.0.1")]
    NoPorts {
        /// How many are needed.
        wanted: usize,
    },
    /// A file operation failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl LocalError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Running { .. } => "stop that one first, or run this one with another --dir".into(),
            Self::OtherCluster { .. } => "give each cluster a --dir of its own".into(),
            Self::Immutable { what, formatted, .. } => {
                format!("set {what} back to {formatted}, or start a new cluster with another --dir and copy the data")
            }
            Self::Shrunk { had, .. } => {
                format!("set spec.replicas back to {had}, or start a new cluster with another --dir and copy the data")
            }
            Self::Newer { .. } => "run the newer armdb that wrote it".into(),
            Self::Malformed { .. } => {
                "remove that file: ports are chosen anew, the data in the members' directories stays".into()
            }
            Self::NoPorts { .. } => "close programs that listen on many ports".into(),
            Self::Io { .. } => "check that the directory exists, is yours, and that the disk is not full".into(),
        }
    }

    /// For `map_err`.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
