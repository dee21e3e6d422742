//! A model of `ChangeEpoch` and of replication, explored by `stateright`: every order of everything, in small worlds.
//!
//! ```text
//! setup     how large a world is, what may happen in it, which rule is left out      log    a shard's log
//! state     members, attempts of controllers, the register, and what an onlooker knows
//! change    what controllers do: ALLOC FENCE CHOOSE ASSEMBLE DECIDE PROMOTE FOLLOW
//! life      what members do: write, ship, acknowledge, commit, sync, compact, restart, lose power
//! steps     both as one `stateright::Model`, with its properties
//! lease     read leases under clocks that run fast or slow: a model of its own
//! worlds    the configurations, exhausted or walked through          mutants   each rule broken once
//! replay    the model's histories, lived through again by the product
//! ```
//! What is decided is decided by the product: every step of a member is one of `MemberCore`'s, made anew from the few
//! bytes that the model keeps of it; logs are joined by `reconcile`, `check_append` and `check_truncate`, commits are
//! counted by `Quorum`, read quorums, targets and candidates are `choose`'s, clients are answered by `outcome`.
//!
//! What is abstract: time (but for `lease`). An attempt may rest between any two of its steps for ever, and any number
//! of them run at once. The network is what was ever said: any part of what the leader of any epoch ever appended may
//! still reach anybody who follows it; acknowledgements arrive late, or never; a FENCE may be answered to nobody. A
//! role change is one step, its disk writes included: a crash in the middle of one is a crash before it or after it
//! whose answer is lost. The whole begins with epoch 1 serving and its BARRIERs committed. A follower acknowledges when
//! it can, since an acknowledgement may take for ever to arrive. Not here: the engine's files, tombstones, time to
//! live, a register that is lost: those are the simulation's.

mod change;
mod lease;
mod life;
mod log;
mod mutants;
mod replay;
mod setup;
mod state;
mod steps;
mod worlds;
