//! What the system says about this process, from `/proc`. Elsewhere nothing, and the metrics
//! are left out.

use std::fs;

/// Units of CPU time in a second: `USER_HZ`, which Linux fixes for programs.
const TICKS_PER_S: f64 = 100.0;

/// See the module. What could not be read is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_s: Option<f64>,
    pub(super) started_unix_s: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) virtual_max_bytes: Option<u64>,
    pub(super) fds_open: Option<u64>,
    pub(super) fds_max: Option<u64>,
    pub(super) threads: Option<u64>,
}

impl Process {
    /// Looks now.
    pub(super) fn read() -> Self {
        let text =
            |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let (stat, status, limits) = (text("stat"), text("status"), text("limits"));
        let system = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = line_value(&system, "btime ").and_then(|value| value.parse::<f64>().ok());
        let times = Times::parse(&stat);
        // The listing itself has one open.
        let fds = fs::read_dir("/proc/self/fd").map(|list| list.count().saturating_sub(1));
        Self {
            cpu_s: times.map(|times| times.cpu_s),
            started_unix_s: times.zip(boot).map(|(times, boot)| boot + times.started_s),
            resident_bytes: kilobytes(&status, "VmRSS:"),
            virtual_bytes: kilobytes(&status, "VmSize:"),
            virtual_max_bytes: limit(&limits, "Max address space"),
            fds_open: fds.ok().and_then(|count| u64::try_from(count).ok()),
            fds_max: limit(&limits, "Max open files"),
            threads: line_value(&status, "Threads:").and_then(|value| value.parse().ok()),
        }
    }
}

/// Name and CPU seconds of each thread, those of one name together.
pub(super) fn thread_cpu_s() -> Vec<(String, f64)> {
    let mut threads = std::collections::BTreeMap::new();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    for task in tasks.flatten() {
        // A thread that ended meanwhile is left out.
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
        if let Some((times, name)) = Times::parse(&stat).zip(thread_name(&stat)) {
            *threads.entry(name.to_owned()).or_insert(0.0) += times.cpu_s;
        }
    }
    threads.into_iter().collect()
}

/// The name in parentheses, which may hold anything.
fn thread_name(stat: &str) -> Option<&str> {
    let (_, rest) = stat.split_once('(')?;
    Some(rest.rsplit_once(')')?.0)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Times {
    cpu_s: f64,
    /// After the machine's start.
    started_s: f64,
}

impl Times {
    /// Reads a `stat` line; fields are counted behind the name.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        let (user, system, started) = (number(11)?, number(12)?, number(19)?);
        Some(Self { cpu_s: (user + system) / TICKS_PER_S, started_s: started / TICKS_PER_S })
    }
}

/// What follows a name at the start of a line.
fn line_value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let value = line_value(status, name)?.strip_suffix("kB")?;
    Some(value.trim().parse::<u64>().ok()? * 1024)
}

/// The soft limit of this name; the largest number where there is none.
fn limit(limits: &str, name: &str) -> Option<u64> {
    match line_value(limits, name)?.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 3000 20 21";
        assert_eq!(Times::parse(stat), Some(Times { cpu_s: 2.0, started_s: 30.0 }));
        assert_eq!(thread_name(stat), Some("a) b (c"));
        assert_eq!(Times::parse("42 (a) S 1"), None);
    }

    #[test]
    fn limits_and_sizes_have_units() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\nMax address space  unlimited  unlimited  bytes\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024));
        assert_eq!(limit(limits, "Max address space"), Some(u64::MAX));
        assert_eq!(limit(limits, "Max locked memory"), None);
        assert_eq!(kilobytes("VmSize:\t  10 kB\nVmRSS:\t 2 kB\n", "VmRSS:"), Some(2048));
        assert_eq!(kilobytes("VmRSS:\t 2\n", "VmRSS:"), None);
    }
}
