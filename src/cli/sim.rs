//! `armdb sim`: histories by chance, each one a seed; what failed, shown again and made small.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::Global;
use crate::simulation::{self, Cut, EVENTS, Mutant, Plan, Search};

/// Run the deterministic simulation: whole clusters in which everything goes wrong, one history a seed
///
/// The product's own decisions, rules and storage engine run on an in-memory disk under one seeded scheduler: no thread,
/// clock or random number but the seed's. A seed that fails prints the command that shows it again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  armdb sim --start 1 --seeds 20000     a range of seeds on all processors; ends with one line of figures
  armdb sim --seed 77 --trace           one seed, with everything that happens
  armdb sim --shrink 77                 a failing seed with as little in it as it takes")]
pub struct Args {
    /// The first seed of a range
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    start: u64,

    /// How many seeds
    #[arg(long, default_value_t = 1000, value_name = "N")]
    seeds: u64,

    /// This seed alone
    #[arg(long, value_name = "SEED", conflicts_with_all = ["start", "seeds", "shrink"])]
    seed: Option<u64>,

    /// Everything that happens in it
    #[arg(long, requires = "seed")]
    trace: bool,

    /// Make a failing seed small: fewer faults, members and less time
    #[arg(long, value_name = "SEED", conflicts_with_all = ["start", "seeds"])]
    shrink: Option<u64>,

    /// How long shrinking may take, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    patience: u64,

    /// Stop a range after so many failures
    #[arg(long, default_value_t = 1, value_name = "N")]
    failures: usize,

    /// Threads of a range; without it, one a processor
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// How often every event and every kind of fault happened
    #[arg(long)]
    counts: bool,

    /// A rule of the protocol that is left out; it must be noticed
    #[arg(long, value_name = "NAME", value_parser = mutant)]
    mutant: Option<Mutant>,

    #[command(flatten)]
    cut: CutArgs,
}

/// What is left out of a seed, as a shrunk one tells it.
#[derive(Debug, clap::Args)]
struct CutArgs {
    /// Members, instead of what the seed says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    members: Option<u64>,

    /// Controllers, instead of what the seed says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    controllers: Option<u64>,

    /// Shards, instead of what the seed says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=8))]
    shards: Option<u64>,

    /// How long things go wrong, in simulated milliseconds
    #[arg(long, value_name = "MS")]
    rough_ms: Option<u64>,

    /// No message is lost, late or doubled by chance
    #[arg(long)]
    kind_network: bool,

    /// Kinds of faults that do not happen, comma-separated
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    without: Vec<String>,

    /// Numbers of faults that do not happen, comma-separated; also ranges
    #[arg(long, value_delimiter = ',', value_name = "N[-M]", value_parser = range)]
    skip: Vec<(u32, u32)>,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let names = || Mutant::ALL.map(Mutant::name).join(", ");
    Mutant::ALL.into_iter().find(|mutant| mutant.name() == name).ok_or_else(|| format!("one of {}", names()))
}

fn range(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|error| error.to_string());
    match text.split_once('-') {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(text).map(|n| (n, n)),
    }
}

impl Args {
    fn cut(&self) -> Cut {
        let cut = &self.cut;
        Cut {
            members: cut.members.map(|n| n as usize),
            controllers: cut.controllers.map(|n| n as usize),
            shards: cut.shards.map(|n| n as usize),
            rough_ms: cut.rough_ms,
            kind_network: cut.kind_network,
            without: cut.without.iter().cloned().collect(),
            skip: cut.skip.iter().flat_map(|&(first, last)| first..=last).collect::<BTreeSet<u32>>(),
            mutant: self.mutant,
        }
    }
}

/// Runs the command.
pub fn run(args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    let cut = args.cut();
    if let Some(seed) = args.shrink {
        return shrink_one(seed, &cut, Duration::from_secs(args.patience));
    }
    match args.seed {
        Some(seed) => show_one(seed, &cut, args.trace),
        None => many(&args, &cut),
    }
}

fn show_one(seed: u64, cut: &Cut, trace: bool) -> anyhow::Result<ExitCode> {
    let plan = Plan::of_seed(seed).cut(cut);
    let mut out = std::io::stdout().lock();
    if trace {
        writeln!(out, "{plan:#?}").context("printing")?;
    }
    let outcome = simulation::run(plan, trace);
    for line in &outcome.told {
        writeln!(out, "{line}").context("printing")?;
    }
    let (steps, acknowledged) = (outcome.steps, outcome.acknowledged);
    let told = outcome.violation.as_deref().unwrap_or("nothing is wrong");
    writeln!(
        out,
        "seed {seed}: {told}; {steps} steps, {acknowledged} writes acknowledged, trace {:016x}",
        outcome.trace
    )
    .context("printing")?;
    Ok(if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shrink_one(seed: u64, cut: &Cut, patience: Duration) -> anyhow::Result<ExitCode> {
    let Some(shrunk) = simulation::shrink(seed, cut, patience) else { bail!("seed {seed}{cut} does not fail") };
    println!("seed {seed}: {}", shrunk.violation);
    println!("{} runs, {} faults are left; the same again, with everything that happens:", shrunk.runs, shrunk.faults);
    println!("    armdb sim --seed {seed} --trace{}", shrunk.cut);
    Ok(ExitCode::FAILURE)
}

fn many(args: &Args, cut: &Cut) -> anyhow::Result<ExitCode> {
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
    let found = simulation::search(args.start, args.seeds, cut, args.failures, threads);
    if args.counts {
        print_counts(&found);
    }
    for (seed, violation) in &found.failed {
        println!("seed {seed}: {violation}");
        println!("    armdb sim --seed {seed} --trace{cut}");
    }
    let missing = found.missing();
    for event in &missing {
        println!("never happened: {event}");
    }
    println!("{}", found.figures());
    let well = found.failed.is_empty() && missing.is_empty();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_counts(found: &Search) {
    for (kind, number) in &found.faults {
        println!("{number:>10}  fault {kind}");
    }
    for event in EVENTS {
        println!("{:>10}  {event}", found.counts.get(event).copied().unwrap_or(0));
    }
    for (event, number) in found.counts.iter().filter(|(event, _)| !EVENTS.contains(event)) {
        println!("{number:>10}  ({event})");
    }
}
