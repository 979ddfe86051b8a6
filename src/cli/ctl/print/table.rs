//! Tables for people: members and endpoints only.

use super::{Answer, unsupported};
use crate::{
    cli::ctl::{args::Format, exit::Exit, go::byte_size},
    config::duration,
};

/// Header and rows.
pub(super) struct Table {
    header: &'static [&'static str],
    pub(super) rows: Vec<Vec<String>>,
}

/// The answer as rows, if it is a list of members or endpoints.
pub(super) fn rows(answer: &Answer<'_>) -> Option<Table> {
    Some(match answer {
        Answer::MemberList(answer) => Table {
            header: &["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"],
            rows: answer
                .members
                .iter()
                .map(|member| {
                    let status = if member.name.is_empty() { "unstarted" } else { "started" };
                    vec![
                        format!("{:x}", member.id),
                        status.to_owned(),
                        member.name.clone(),
                        member.peer_ur_ls.join(","),
                        member.client_ur_ls.join(","),
                        member.is_learner.to_string(),
                    ]
                })
                .collect(),
        },
        Answer::Status(list) => Table {
            header: &[
                "ENDPOINT",
                "ID",
                "VERSION",
                "DB SIZE",
                "IS LEADER",
                "IS LEARNER",
                "RAFT TERM",
                "RAFT INDEX",
                "RAFT APPLIED INDEX",
                "ERRORS",
            ],
            rows: list
                .iter()
                .map(|entry| {
                    let status = &entry.status;
                    let id = status.header.as_ref().map(|h| h.member_id).unwrap_or_default();
                    vec![
                        entry.endpoint.clone(),
                        format!("{id:x}"),
                        status.version.clone(),
                        byte_size(u64::try_from(status.db_size).unwrap_or_default()),
                        (status.leader == id).to_string(),
                        status.is_learner.to_string(),
                        status.raft_term.to_string(),
                        status.raft_index.to_string(),
                        status.raft_applied_index.to_string(),
                        status.errors.join(", "),
                    ]
                })
                .collect(),
        },
        Answer::Health(list) => Table {
            header: &["ENDPOINT", "HEALTH", "TOOK", "ERROR"],
            rows: list
                .iter()
                .map(|health| {
                    vec![
                        health.endpoint.clone(),
                        health.error.is_empty().to_string(),
                        duration::format(health.took),
                        health.error.clone(),
                    ]
                })
                .collect(),
        },
        Answer::Hashes(list) => Table {
            header: &["ENDPOINT", "HASH"],
            rows: list
                .iter()
                .map(|entry| vec![entry.endpoint.clone(), entry.hash.hash.to_string()])
                .collect(),
        },
        Answer::File(file) => {
            let mut row = vec![
                format!("{:x}", file.hash),
                file.revision.to_string(),
                file.total_keys.to_string(),
                byte_size(file.total_bytes),
            ];
            if file.version.is_empty() {
                let header = &["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"];
                Table { header, rows: vec![row] }
            } else {
                let header = &["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];
                row.push(file.version.clone());
                Table { header, rows: vec![row] }
            }
        }
        _ => return None,
    })
}

/// The answer with lines around it: headers in the middle, cells to the right.
pub(super) fn print(answer: &Answer<'_>) -> Result<Vec<u8>, Exit> {
    let table = rows(answer).ok_or_else(|| unsupported(Format::Table))?;
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = table.header.iter().map(|name| width(name)).collect();
    for row in &table.rows {
        for (max, cell) in widths.iter_mut().zip(row) {
            *max = (*max).max(width(cell));
        }
    }
    let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect();
    let rule = rule + "+\n";
    let header = table.header.iter().zip(&widths).map(|(name, width)| format!("| {name:^width$} "));
    let mut text = rule.clone() + &header.collect::<String>() + "|\n" + &rule;
    for row in &table.rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("| {cell:>width$} "));
        text.extend(cells);
        text.push_str("|\n");
    }
    if !table.rows.is_empty() {
        text.push_str(&rule);
    }
    Ok(text.into_bytes())
}
