//! Processes of the project, on whatever node: inside the cluster all of them have numbers of ours too. To kill one so
//! needs no API server.

/// Those that were started as `armdb ROLE`: their numbers and arguments.
pub fn armdb(role: &str) -> Vec<(i32, Vec<String>)> {
    let numbers = std::fs::read_dir("/proc").expect("there is one").flatten();
    let numbers = numbers.filter_map(|process| process.file_name().to_str()?.parse().ok());
    numbers.map(|number| (number, arguments(number))).filter(|(_, line)| is(line, role)).collect()
}

/// What a process was started with; nothing once it has ended.
pub fn arguments(number: i32) -> Vec<String> {
    let line = std::fs::read_to_string(format!("/proc/{number}/cmdline")).unwrap_or_default();
    line.split_terminator('\0').map(str::to_owned).collect()
}

fn is(line: &[String], role: &str) -> bool {
    line.first().is_some_and(|program| program == "/armdb") && line.get(1).is_some_and(|word| word == role)
}
