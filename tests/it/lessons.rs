//! Holds `docs/security-lessons.md` to its word: every advisory has a row, every test that a row
//! names exists, runs, and says which advisory it is about.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

use crate::support::program::repository;

/// The document.
const DOCUMENT: &str = "docs/security-lessons.md";
/// What stands in place of a test where there is nothing to test yet.
const NOT_YET: &str = "not applicable yet: no orchestrator";

/// Advisories that must have a row, and what a test about one says.
const ADVISORIES: [(&str, &str); 37] = [
    ("GHSA-xg4h-6gfc-h4m8", "GHSA-xg4h-6gfc-h4m8"),
    ("CVE-2026-73499", "CVE-2026-73499"),
    ("CVE-2026-33343", "CVE-2026-33343"),
    ("CVE-2026-44283", "CVE-2026-44283"),
    ("CVE-2026-33413", "CVE-2026-33413"),
    ("GHSA-6vch-q96h-7gc3", "GHSA-6vch-q96h-7gc3"),
    ("GHSA-3wh4", "GHSA-3wh4"),
    ("etcd 3.6.14: peer reads", "etcd 3.6.14"),
    ("etcd 3.6.14: header time", "etcd 3.6.14"),
    ("etcd 3.6.14: nested cost", "etcd 3.6.14"),
    ("etcd 3.6.14: snapshot size", "etcd 3.6.14"),
    ("CVE-2018-16886", "CVE-2018-16886"),
    ("CVE-2021-28235", "CVE-2021-28235"),
    ("GHSA-528j", "GHSA-528j"),
    ("CVE-2020-15106", "CVE-2020-15106"),
    ("CVE-2020-15112", "CVE-2020-15112"),
    ("CVE-2020-15114", "CVE-2020-15114"),
    ("CVE-2020-15136", "CVE-2020-15136"),
    ("GHSA-j86v", "GHSA-j86v"),
    ("GHSA-h8g9", "GHSA-h8g9"),
    ("CVE-2018-1098", "CVE-2018-1098"),
    ("CVE-2018-1099", "CVE-2018-1099"),
    ("CVE-2020-15115", "CVE-2020-15115"),
    ("GHSA-5x4g", "GHSA-5x4g"),
    ("GHSA-pm3m", "GHSA-pm3m"),
    ("GHSA-9gp7", "GHSA-9gp7"),
    ("MemberUpdate (etcd 3.6.12)", "etcd 3.6.12"),
    ("CVE-2020-7219", "Consul CVE-2020-7219"),
    ("CVE-2021-37219", "Consul CVE-2021-37219"),
    ("CVE-2021-38698", "Consul CVE-2021-38698"),
    ("CVE-2020-25201", "Consul CVE-2020-25201"),
    ("CVE-2020-13250", "Consul CVE-2020-13250"),
    ("CVE-2021-28156", ""),
    ("CVE-2022-24687", ""),
    ("CVE-2022-29153", ""),
    ("CVE-2023-44487", "CVE-2023-44487"),
    ("CVE-2024-27316", "CVE-2024-27316"),
];

/// Those that are about an orchestrator and have nothing here to hold.
const OF_AN_ORCHESTRATOR: [&str; 5] =
    ["CVE-2020-25201", "CVE-2020-13250", "CVE-2021-28156", "CVE-2022-24687", "CVE-2022-29153"];

/// A row: its advisories, and what shows that the lesson is kept.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    advisories: Vec<String>,
    shown_by: String,
}

/// The rows of all tables in a document.
fn rows(document: &str) -> Vec<Row> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let lines = document.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    let rows = lines.map(cells).filter(|cells| cells[0] != "advisory");
    rows.map(|cells| Row {
        advisories: cells[0].split(", ").map(str::to_owned).collect(),
        shown_by: if cells.len() == 4 { cells[3].clone() } else { String::new() },
    })
    .collect()
}

/// What a file says about a test of its: the comments above it and those at the file's head. The
/// error says what is wrong with it.
fn said_about(source: &str, name: &str) -> Result<String, String> {
    let lines: Vec<&str> = source.lines().collect();
    let is_it = |line: &&str| {
        let line = line.trim_start().trim_start_matches("async ");
        line.strip_prefix("fn ").is_some_and(|rest| rest.starts_with(&format!("{name}(")))
    };
    let at = lines.iter().position(is_it).ok_or("has no such function")?;
    let above = lines[..at].iter().rev().map(|line| line.trim_start());
    let above: Vec<_> =
        above.take_while(|line| line.starts_with("//") || line.starts_with("#[")).collect();
    let is_test = |line: &&&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    if above.iter().find(is_test).is_none() {
        return Err("is no test".to_owned());
    }
    if above.iter().any(|line| line.starts_with("#[ignore") || line.starts_with("#[cfg")) {
        return Err("is not always run".to_owned());
    }
    let head = lines.iter().take_while(|line| line.starts_with("//!"));
    let comments = above.iter().rev().filter(|line| line.starts_with("//"));
    let text = head.chain(comments).map(|line| line.trim_start_matches(['/', '!']).trim());
    Ok(text.collect::<Vec<_>>().join(" "))
}

/// What is wrong with one row, reading sources with `read`.
fn faults(row: &Row, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut faults = Vec::new();
    if row.shown_by == NOT_YET {
        let strangers =
            row.advisories.iter().filter(|id| !OF_AN_ORCHESTRATOR.contains(&id.as_str()));
        faults
            .extend(strangers.map(|id| format!("{id} is not about an orchestrator: name a test")));
        return faults;
    }
    let mut texts = Vec::new();
    for test in row.shown_by.split(", ") {
        let named = test.strip_prefix('`').and_then(|test| test.strip_suffix('`'));
        let Some((path, name)) = named.and_then(|test| test.split_once("::")) else {
            faults.push(format!("{test:?} is no `file.rs::test`, and not {NOT_YET:?}"));
            continue;
        };
        match read(path).ok_or("does not exist".to_owned()).and_then(|text| said_about(&text, name))
        {
            Ok(text) => texts.push(text),
            Err(fault) => faults.push(format!("{path}::{name} {fault}")),
        }
    }
    for id in &row.advisories {
        match ADVISORIES.iter().find(|(known, _)| known == id) {
            None => faults.push(format!("{id} is not in the list of advisories")),
            Some((_, said)) if !texts.iter().any(|text| text.contains(said)) => {
                faults.push(format!("none of the tests of {id} says {said:?}"));
            }
            Some(_) => {}
        }
    }
    faults
}

#[test]
fn every_lesson_has_a_test_that_names_it() -> Result<()> {
    let document = fs::read_to_string(repository().join(DOCUMENT)).context(DOCUMENT)?;
    let rows = rows(&document);
    let read = |path: &str| fs::read_to_string(repository().join(path)).ok();
    let mut found: Vec<_> = rows.iter().flat_map(|row| faults(row, &read)).collect();
    let mut places = BTreeMap::new();
    for id in rows.iter().flat_map(|row| &row.advisories) {
        *places.entry(id.as_str()).or_insert(0) += 1;
    }
    for (id, _) in ADVISORIES {
        match places.get(id) {
            Some(1) => {}
            None => found.push(format!("{id} has no row")),
            Some(rows) => found.push(format!("{id} has {rows} rows")),
        }
    }
    assert!(found.is_empty(), "{DOCUMENT}:\n  {}", found.join("\n  "));
    Ok(())
}

/// The check itself: it finds what it is for.
#[test]
fn a_row_without_a_real_test_is_found() {
    let source = "//! About GHSA-3wh4.\n\n/// CVE-2020-15106.\n#[test]\nfn real() {}\n\nfn helper() {}\n\n\
                  #[test]\n#[ignore]\nfn sleeping() {}\n\n    #[tokio::test]\n    async fn other() {}\n";
    let read = |path: &str| (path == "a.rs").then(|| source.to_owned());
    let cases: [(&[&str], &str, &str); 11] = [
        (&["CVE-2020-15106"], "`a.rs::real`", ""),
        (&["GHSA-3wh4"], "`a.rs::other`", ""),
        (&["CVE-2020-15106", "GHSA-3wh4"], "`a.rs::other`, `a.rs::real`", ""),
        (&["CVE-2022-29153"], NOT_YET, ""),
        (&["CVE-2020-15106"], NOT_YET, "not about an orchestrator"),
        (&["CVE-2022-29153"], "not applicable", "is no `file.rs::test`"),
        (&["CVE-2020-15106"], "`a.rs::helper`", "is no test"),
        (&["CVE-2020-15106"], "`a.rs::sleeping`", "is not always run"),
        (&["CVE-2020-15106"], "`a.rs::re`", "has no such function"),
        (&["CVE-2020-15106"], "`b.rs::real`", "does not exist"),
        (&["CVE-2020-15106"], "`a.rs::other`", "says \"CVE-2020-15106\""),
    ];
    for (ids, shown_by, want) in cases {
        let line = format!("| {} | there | here | {shown_by} |", ids.join(", "));
        let row = rows(&line).remove(0);
        let found = faults(&row, &read);
        let fits = if want.is_empty() {
            found.is_empty()
        } else {
            found.iter().any(|fault| fault.contains(want))
        };
        assert!(fits, "{line}: {found:?} instead of {want:?}");
    }
    let unknown = rows("| CVE-1999-1 | there | here | `a.rs::real` |");
    assert!(faults(&unknown[0], &read)[0].contains("not in the list"));
}
