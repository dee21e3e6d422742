//! Compaction: files below the log floor are rewritten without what can go.

mod plan;
