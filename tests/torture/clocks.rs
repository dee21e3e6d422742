//! Wall clocks that can be set: a library, loaded into each member, adds an offset from a file to what the kernel says.
//!
//! Only the wall clock: what measures time that passes is the kernel's (a time namespace could shift that as well, but only
//! before a process starts). Needs a C compiler.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset_ns;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("ARMDB_TORTURE_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) offset_ns = mapped;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, id, time);
    if (!failed && id == CLOCK_REALTIME && offset_ns) {
        int64_t ns = time->tv_nsec + *offset_ns % 1000000000;
        time->tv_sec += *offset_ns / 1000000000;
        if (ns < 0) { ns += 1000000000; time->tv_sec--; }
        if (ns >= 1000000000) { ns -= 1000000000; time->tv_sec++; }
        time->tv_nsec = ns;
    }
    return failed;
}
"#;

/// The clocks of all members.
pub struct Clocks {
    home: PathBuf,
    files: Vec<File>,
    wrong: Mutex<BTreeSet<usize>>,
}

impl Clocks {
    /// Builds the library in `home`, and a clock a member; why not, otherwise.
    pub fn new(home: &Path, members: usize) -> Result<Self, String> {
        let source = home.join("clock.c");
        std::fs::write(&source, SOURCE).map_err(|error| error.to_string())?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(home.join("clock.so")).arg(source);
        match compiler.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => return Err(format!("cc: {error}")),
        }
        let file = |member| {
            let file = File::create(home.join(format!("clock-{member}")))?;
            file.write_all_at(&0_i64.to_ne_bytes(), 0)?;
            Ok(file)
        };
        let files = (0..members).map(file).collect::<std::io::Result<_>>().map_err(|error| error.to_string())?;
        Ok(Self { home: home.to_owned(), files, wrong: Mutex::default() })
    }

    /// What a member's environment must hold.
    pub fn environment(&self, member: usize) -> [String; 2] {
        let home = self.home.display();
        [format!("LD_PRELOAD={home}/clock.so"), format!("ARMDB_TORTURE_CLOCK={home}/clock-{member}")]
    }

    /// Sets a member's clock this far off. Never more than a minority is wrong: if it would be, the others are put right.
    pub fn set_wrong(&self, member: usize, offset_ms: i64) {
        let mut wrong = self.wrong.lock();
        if wrong.len() >= (self.files.len() - 1) / 2 && !wrong.contains(&member) {
            std::mem::take(&mut *wrong).into_iter().for_each(|other| self.set(other, 0));
        }
        wrong.insert(member);
        self.set(member, offset_ms);
    }

    fn set(&self, member: usize, offset_ms: i64) {
        let offset = offset_ms * 1_000_000;
        self.files[member].write_all_at(&offset.to_ne_bytes(), 0).expect("the clock's file is written");
    }
}
