//! `armdb node`: runs one member until SIGTERM (or Ctrl-C). Started by `armdb local` and by Kubernetes, seldom
//! by hand.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use super::{Failure, Global, block_on, logging, stop_signal};
use crate::net::peer::{PeerAuth, PeerSecret};
use crate::net::tls::PeerTls;
use crate::node::config::{LogFormat, NodeConfig};
use crate::node::run::{Node, NodeOptions};

/// Run one member of a cluster
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("auth").required(true).args(["secret_file", "tls_dir"]))]
pub struct Args {
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: String,

    /// Number of the partition
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub partition: u32,

    /// Name of this member, as <cluster>-<partition>-<ordinal>
    #[arg(long, value_name = "NAME")]
    pub name: String,

    /// Data directory; formatted if it is empty or absent
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,

    /// Shards of the partition; fixed when the directory is formatted
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,

    /// Where clients connect; * as the host stands for every address of this machine
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "HOST:PORT")]
    pub client: String,

    /// Where members and controllers connect
    #[arg(long, default_value = "127.0.0.1:7401", value_name = "HOST:PORT")]
    pub peer: String,

    /// Where probes and metrics are served
    #[arg(long, default_value = "127.0.0.1:7402", value_name = "HOST:PORT")]
    pub http: String,

    /// Where clients are told to connect, if not at --client
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_client: Option<String>,

    /// Where members are told to connect, if not at --peer
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,

    /// Address of this machine for --advertise-client and --advertise-peer, with the ports listened on
    #[arg(long, value_name = "HOST", conflicts_with_all = ["advertise_client", "advertise_peer"])]
    pub advertise_host: Option<String>,

    /// Configuration file (YAML); every key has a default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// File with the secret that members and controllers share
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// Directory with tls.crt, tls.key and ca.crt: the peer port speaks mutual TLS instead of the secret
    #[arg(long, value_name = "DIR", requires = "tls_name")]
    pub tls_dir: Option<PathBuf>,

    /// Name that every member's certificate must be valid for
    #[arg(long, value_name = "NAME", conflicts_with = "secret_file")]
    pub tls_name: Option<String>,

    /// End at once when stdin closes: whoever started this process is gone
    #[arg(long)]
    pub supervised: bool,
}

/// A temporary failure of sysexits.h: the same command may succeed later.
const EXIT_TEMPORARY: u8 = 75;

/// Runs the member.
pub fn run(args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    let config = match &args.config {
        None => Ok(NodeConfig::default()),
        Some(path) => NodeConfig::read(path),
    };
    let config = config.map_err(|error| Failure::usage(error.to_string()))?;
    logging::init_as("info", config.log_format == LogFormat::Json)?;
    let auth = peer_auth(&args)?;
    if args.supervised {
        exit_with_supervisor();
    }
    let advertised = |listen: &str| args.advertise_host.as_deref().map(|host| at_port_of(host, listen));
    let options = NodeOptions {
        advertise_client: args.advertise_client.clone().or_else(|| advertised(&args.client)),
        advertise_peer: args.advertise_peer.clone().or_else(|| advertised(&args.peer)),
        cluster: args.cluster,
        partition: args.partition,
        name: args.name,
        data: args.data,
        shards: args.shards,
        client: args.client,
        peer: args.peer,
        http: args.http,
        config,
        auth,
    };
    block_on(async {
        let stop = stop_signal()?;
        let served = match Node::bind(options).await {
            Ok(node) => node.serve(stop).await,
            Err(error) => Err(error),
        };
        match served {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) if error.is_temporary() => Err(Failure::with_code(error.to_string(), EXIT_TEMPORARY).into()),
            Err(error) => Err(error.into()),
        }
    })
}

/// `host` with the port that `listen` ends with.
fn at_port_of(host: &str, listen: &str) -> String {
    let port = listen.rsplit_once(':').map_or(listen, |(_, port)| port);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// How the peer port's two ends know each other.
fn peer_auth(args: &Args) -> anyhow::Result<PeerAuth> {
    if let (Some(dir), Some(name)) = (&args.tls_dir, &args.tls_name) {
        let tls = PeerTls::open(dir, name).map_err(|error| Failure::new(error.to_string()))?;
        return Ok(PeerAuth::Tls(Arc::new(tls)));
    }
    let path = args.secret_file.as_ref().ok_or_else(|| Failure::usage("give --secret-file or --tls-dir"))?;
    let text = std::fs::read_to_string(path)
        .with_context(|| Failure::new(format!("reading the secret {}", path.display())))?;
    Ok(PeerSecret::new(&text).with_context(|| format!("in {}", path.display()))?.into())
}

/// Ends the process when stdin closes. A thread of its own, because it must work whatever the runtime does.
fn exit_with_supervisor() {
    std::thread::spawn(|| {
        let mut stdin = std::io::stdin().lock();
        // A read error says as much as an end: nobody is there.
        let _ = std::io::copy(&mut stdin, &mut std::io::sink());
        std::process::exit(0);
    });
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn line(rest: &str) -> Result<Line, clap::Error> {
        let all = format!("node --cluster kv --name kv-0-0 --data d {rest}");
        Line::try_parse_from(all.split_whitespace())
    }

    #[test]
    fn members_know_each_other_by_a_secret_or_by_certificates_and_never_by_half_of_either() {
        for rest in ["--secret-file s", "--tls-dir d --tls-name a.b"] {
            line(rest).expect("one of the two");
        }
        for rest in ["", "--tls-dir d", "--tls-name a.b", "--secret-file s --tls-name a.b"] {
            let complaint = line(rest).expect_err(rest).to_string();
            assert!(complaint.contains("--tls-"), "{complaint}");
        }
        line("--secret-file s --tls-dir d --tls-name a.b").expect_err("both");
        let auth = peer_auth(&line("--tls-dir /nowhere --tls-name a.b").expect("whole").args);
        assert!(auth.expect_err("nothing there").to_string().contains("/nowhere"));
    }
}
