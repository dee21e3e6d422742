//! The package index of this machine: real text of real sizes.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// Key (name, architecture and version) to value (the stanza) of every package; None if there is no index.
pub fn index() -> Option<BTreeMap<String, String>> {
    let dumped = Command::new("apt-cache").arg("dumpavail").output().ok()?;
    let text = String::from_utf8_lossy(&dumped.stdout);
    let mut packages = BTreeMap::new();
    for stanza in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let name = field("Package:")?;
        let key = format!("{name}/{}/{}", field("Architecture:").unwrap_or("-"), field("Version:").unwrap_or("-"));
        packages.insert(key, stanza.to_owned());
    }
    (packages.len() > 1000).then_some(packages)
}

/// Writes pairs as a file for `armdb load`.
pub fn write<'a>(path: &Path, pairs: impl IntoIterator<Item = (&'a String, &'a String)>) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("a file"));
    for (key, value) in pairs {
        let line = serde_json::json!({ "key": key, "value": value });
        writeln!(file, "{line}").expect("written");
    }
    file.flush().expect("written");
}
