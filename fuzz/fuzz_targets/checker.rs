#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| armdb::fuzzing::run("checker", data));
