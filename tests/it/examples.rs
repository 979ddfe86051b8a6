//! The examples run as the README says. `cargo test --examples` builds them before.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

/// Runs one example to its end and returns what it printed.
fn run(name: &str, args: &[&str]) -> Result<String> {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_tripod"));
    let path = built.parent().context("no target directory")?.join("examples").join(name);
    let output = Command::new(&path)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {}: cargo build --examples first", path.display()))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{name} failed: {}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(printed)
}

#[test]
fn a_program_embeds_the_store() -> Result<()> {
    let printed = run("embed", &[])?;
    for line in [
        "put at revision 2",
        "get: hello",
        "transaction succeeded: true at revision 3",
        "session: None",
        "watched: Put hello again",
    ] {
        assert!(printed.contains(line), "{line:?} is missing in:\n{printed}");
    }
    Ok(())
}

#[test]
fn three_members_in_one_program_agree() -> Result<()> {
    let printed = run("three_members", &[])?;
    for member in ["a", "b", "c"] {
        assert!(printed.contains(&format!("{member} reads world")), "{printed}");
    }
    Ok(())
}
