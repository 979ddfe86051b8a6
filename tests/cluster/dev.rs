//! The README's main command: three members in one process, stopped and started again.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use tripod::api::proto::etcdserverpb::{PutRequest, RangeRequest};

use crate::support::{
    client::Client,
    wait::{eventually, eventually_blocking},
};

/// Client port of the first member; the others lie 20,000 and 30,000 above, peer ports one more.
const BASE_PORT: u16 = 13_790;
/// For three members to find a leader, and to stop.
const LIMIT: Duration = Duration::from_secs(30);

/// A running `tripod dev`, killed when the test is over.
struct Dev(Child);

impl Dev {
    fn start(data: &std::path::Path) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_tripod"))
            .args(["--base-port", &BASE_PORT.to_string(), "--data-dir"])
            .arg(data)
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the program")?;
        Ok(Self(child))
    }

    /// Ctrl-C, and a clean end.
    fn stop(mut self) -> Result<()> {
        let id = i32::try_from(self.0.id())?;
        kill_process(Pid::from_raw(id).context("a process id")?, Signal::INT)?;
        let status = eventually_blocking("the end of the program", LIMIT, || {
            self.0.try_wait()?.context("it still runs")
        })?;
        anyhow::ensure!(status.success(), "ended with {status}");
        Ok(())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // One that has ended needs neither.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn client(step: u16) -> Client {
    Client::new(&format!("http://127.0.0.1:{}", BASE_PORT + step))
}

async fn read(step: u16) -> Result<Vec<u8>> {
    let range = RangeRequest { key: "dev".into(), ..Default::default() };
    let pairs = client(step).kv().range(range).await?.into_inner().kvs;
    Ok(pairs.first().context("the key is missing")?.value.to_vec())
}

/// `cargo build --examples` makes it.
fn run_the_client_example() -> Result<()> {
    let built = std::path::PathBuf::from(env!("CARGO_BIN_EXE_tripod"));
    let path = built.parent().context("no target directory")?.join("examples/client");
    let output = Command::new(&path)
        .arg(format!("http://127.0.0.1:{BASE_PORT}"))
        .output()
        .with_context(|| format!("cannot run {}: cargo build --examples", path.display()))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "the client example ended with {}", output.status);
    anyhow::ensure!(printed.contains("hello = world"), "the client example printed {printed}");
    Ok(())
}

#[tokio::test]
async fn the_main_command_serves_three_members_and_keeps_its_data() -> Result<()> {
    let data = tempfile::tempdir()?;
    let dev = Dev::start(data.path())?;
    let put = PutRequest { key: "dev".into(), value: "kept".into(), ..Default::default() };
    eventually("a first write", LIMIT, || {
        let put = put.clone();
        async { Ok(client(0).kv().put(put).await?) }
    })
    .await?;
    for step in [0, 20_000, 30_000] {
        assert_eq!(read(step).await?, b"kept", "member at {step}");
    }
    run_the_client_example()?;
    dev.stop()?;
    let dev = Dev::start(data.path())?;
    let kept = eventually("the data after a restart", LIMIT, || read(20_000)).await?;
    assert_eq!(kept, b"kept");
    dev.stop()
}
