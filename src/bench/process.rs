//! What the kernel tells about a process: CPU time and memory.
//!
//! Source: proc(5). Elsewhere than on Linux everything here is `None`.

use std::{fs, time::Duration};

use serde::Serialize;

/// Clock ticks per second of `/proc/PID/stat`; Linux shows 100 to user space on every
/// architecture in use, whatever the kernel's own timer does.
const TICKS_PER_SECOND: u64 = 100;

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Resident, all of it.
    pub(crate) resident_bytes: u64,
    /// Resident and not backed by a file.
    pub(crate) anonymous_bytes: u64,
    /// Highest resident size so far.
    pub(crate) peak_bytes: u64,
}

/// User and system time a process has used, exited threads included. Resolution 10 ms.
pub(crate) fn cpu_of(pid: u32) -> Option<Duration> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<Duration> {
    // The command stands in parentheses and may contain anything; fields count from behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)))
}

/// CPU time of the calling thread, in nanoseconds' resolution.
pub(crate) fn cpu_of_this_thread() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}

/// Memory of a process.
pub(crate) fn memory_of(pid: u32) -> Option<Memory> {
    parse_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_status(status: &str) -> Option<Memory> {
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some(Memory {
        resident_bytes: bytes("VmRSS:")?,
        anonymous_bytes: bytes("RssAnon:")?,
        peak_bytes: bytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_hostile_command_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn status_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t     200 kB\nRssAnon:\t 100 kB\n";
        let want =
            Memory { resident_bytes: 204_800, anonymous_bytes: 102_400, peak_bytes: 307_200 };
        assert_eq!(parse_status(status), Some(want));
        assert_eq!(parse_status("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_is_visible() {
        assert!(cpu_of(std::process::id()).is_some());
        assert!(memory_of(std::process::id()).is_some_and(|m| m.resident_bytes > 100_000));
        assert!(cpu_of_this_thread().is_some());
    }
}
