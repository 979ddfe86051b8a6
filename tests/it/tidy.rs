//! Reads the sources and holds them to the rules of the house that no compiler checks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::support::program::repository;

/// Lines of code after which a file must be split, its tests aside.
const FILE_LINES_MAX: usize = 600;

/// Files that may be longer, and why. Keep it short.
const LONG_FILES: &[(&str, &str)] = &[];

/// Parts of `src/` that must not know each other.
const STRANGERS: [&str; 3] = ["api", "cli", "orchestrator"];

/// A source file: its path below the repository and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Numbered lines that hold code, not only a comment.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// A module of tests in a file of its own.
    fn is_tests(&self) -> bool {
        self.path.contains("/tests") || self.path.ends_with("_tests.rs")
    }

    /// Lines without the test module at the end of the file.
    fn lines_of_code(&self) -> usize {
        if self.is_tests() {
            return 0;
        }
        self.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count()
    }
}

/// All Rust sources below `folders`.
fn sources(folders: &[&str]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|name| repository().join(name)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let path = path.strip_prefix(repository())?.to_string_lossy().into_owned();
            sources.push(Source { path, text });
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    anyhow::ensure!(!sources.is_empty(), "no sources in {folders:?}");
    Ok(sources)
}

/// Fails with all findings at once.
fn expect_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

#[test]
fn api_cli_and_orchestrator_do_not_know_each_other() -> Result<()> {
    let mut findings = Vec::new();
    for source in sources(&["src"])? {
        let part = source.path.trim_start_matches("src/");
        let part = part.split(['/', '.']).next().unwrap_or("");
        if !STRANGERS.contains(&part) {
            continue;
        }
        for (number, line) in source.code() {
            let stranger =
                STRANGERS.iter().find(|other| **other != part && names_module(line, other));
            if let Some(stranger) = stranger {
                findings.push(format!("{}:{number} names {stranger}", source.path));
            }
        }
    }
    expect_none(
        "api, cli and orchestrator reach each other only through node and client",
        &findings,
    );
    Ok(())
}

/// Whether a line names `crate::MODULE`, and not one whose name only begins like it. The
/// generated messages are common ground: the command line speaks gRPC to a server.
fn names_module(line: &str, module: &str) -> bool {
    let path = format!("crate::{module}");
    line.match_indices(&path).any(|(at, _)| {
        let rest = &line[at + path.len()..];
        !rest.starts_with("::proto")
            && !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')
    })
}

#[test]
fn storage_knows_neither_tokio_nor_openraft_and_only_raft_names_openraft() -> Result<()> {
    let mut findings = Vec::new();
    let cases: [(&str, &[&str]); 2] = [("storage", &["tokio", "openraft"]), ("src", &["openraft"])];
    for (folder, forbidden) in cases {
        for source in sources(&[folder])? {
            for (number, line) in source.code() {
                for name in forbidden.iter().filter(|name| line.contains(&format!("{name}::"))) {
                    findings.push(format!("{}:{number} names {name}", source.path));
                }
            }
        }
    }
    for (manifest, forbidden) in
        [("storage/Cargo.toml", "tokio"), ("storage/Cargo.toml", "openraft")]
    {
        let text = read(manifest)?;
        if text.lines().any(|line| line.starts_with(forbidden)) {
            findings.push(format!("{manifest} depends on {forbidden}"));
        }
    }
    expect_none("storage is pure; openraft stays in the raft crate", &findings);
    Ok(())
}

#[test]
fn every_workspace_dependency_says_what_it_is_for() -> Result<()> {
    let manifest = read("Cargo.toml")?;
    let section = manifest.split("[workspace.dependencies]").nth(1).context("no such section")?;
    let lines: Vec<&str> = section.lines().take_while(|line| !line.starts_with('[')).collect();
    let mut findings = Vec::new();
    for pair in lines.windows(2) {
        let [before, line] = pair else { continue };
        let is_ours = line.contains("path = ");
        let is_dependency = line.contains(" = ") && !line.starts_with('#');
        if is_dependency && !is_ours && !before.starts_with("# ") {
            findings.push((*line).to_owned());
        }
    }
    expect_none("a comment above each dependency", &findings);
    Ok(())
}

#[test]
fn files_stay_short_enough_to_read() -> Result<()> {
    let mut findings = Vec::new();
    let sources = sources(&["src", "raft", "storage", "tests", "examples", "benches"])?;
    for source in &sources {
        let lines = source.lines_of_code();
        let allowed = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > FILE_LINES_MAX && !allowed {
            findings.push(format!("{} has {lines} lines: split it", source.path));
        }
        if allowed && lines <= FILE_LINES_MAX {
            findings.push(format!("{} is short now: take it off the list", source.path));
        }
    }
    for (path, _) in LONG_FILES {
        if !sources.iter().any(|source| source.path == *path) {
            findings.push(format!("{path} is gone: take it off the list"));
        }
    }
    expect_none("at most 600 lines a file", &findings);
    Ok(())
}

#[test]
fn every_file_begins_with_what_it_is() -> Result<()> {
    let mut findings = Vec::new();
    for source in sources(&["src", "raft", "storage", "tests", "examples", "benches"])? {
        let first = source.text.lines().next().unwrap_or("");
        if !first.starts_with("//! ") && !source.is_tests() {
            findings.push(source.path);
        }
    }
    expect_none("a `//!` header", &findings);
    Ok(())
}

#[test]
fn the_commands_in_the_documents_exist() -> Result<()> {
    let mut findings = Vec::new();
    let mut documents = vec![repository().join("README.md"), repository().join("CONTRIBUTING.md")];
    if let Ok(entries) = fs::read_dir(repository().join("docs")) {
        documents.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
    }
    documents.retain(|path| path.extension().is_some_and(|one| one == "md") && path.is_file());
    for path in documents {
        let text = fs::read_to_string(&path)?;
        for word in text.split(|c: char| c.is_whitespace() || "`()\"'|,;".contains(c)) {
            let word = word.trim_start_matches("./").trim_end_matches(['.', ':']);
            let is_script = ["scripts/", "tests/"].iter().any(|folder| word.starts_with(folder));
            if is_script && word.ends_with(".sh") && !repository().join(word).is_file() {
                findings.push(format!("{}: {word} does not exist", path.display()));
            }
        }
    }
    expect_none("commands of the documents", &findings);
    Ok(())
}

#[test]
fn scripts_can_be_run_and_are_strict() -> Result<()> {
    let mut findings = Vec::new();
    for folder in ["scripts", "tests"] {
        for entry in fs::read_dir(repository().join(folder))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "sh") {
                continue;
            }
            check_script(&path, &mut findings)?;
        }
    }
    check_script(&repository().join(".ci/run"), &mut findings)?;
    expect_none("scripts", &findings);
    Ok(())
}

fn check_script(path: &Path, findings: &mut Vec<String>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    if fs::metadata(path)?.permissions().mode() & 0o111 == 0 {
        findings.push(format!("{} is not executable", path.display()));
    }
    // Without -e only where failing commands are the subject, as in a comparison.
    if !text.contains("\nset -euo pipefail") && !text.contains("\nset -u") {
        findings.push(format!("{} ignores unset variables", path.display()));
    }
    Ok(())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| path.to_owned())
}
