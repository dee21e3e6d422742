//! Clusters of real processes: `armdb local` with its members, killed, stopped, starved and fed nonsense.
//!
//! One scenario a file; [`support`] starts clusters, waits for what they say, keeps books of what was
//! acknowledged and reads it back from every member. Nothing here is a claim about time: every wait is for an
//! event, with a bound that only ends a hang.

mod support;

mod all_killed;
mod chaos;
mod command_line;
mod data_directory;
mod disk_full;
mod ending;
mod follower_down;
mod garbage;
mod increments;
mod loading;
mod lone_writer;
mod manifest;
mod measuring;
mod packages;
mod ports;
mod quorum_lost;
mod register_lost;
mod rot;
mod small_clusters;
mod stopped_leader;
mod switchover;
mod volumes_lost;
mod watching;
