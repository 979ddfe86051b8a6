//! The help text of `serve`, from the table.

use std::fmt::Write as _;

use super::{Treatment, table};

/// The whole help text. `program` is how the reader calls it.
pub(crate) fn usage(program: &str) -> String {
    let mut text = format!(
        "Usage:\n\n  {program} [flags]\n    Start a member.\n\n  {program} --version\n    \
         Show the version.\n\n  {program} -h | --help\n    Show this text.\n\n  \
         {program} --config-file PATH\n    Read the configuration from a file; flags and \
         environment are ignored then.\n\nEvery flag is also read from the environment as ETCD_ \
         and its name in upper case\nwith underscores; the command line wins.\n"
    );
    for group in &table::GROUPS {
        let _ = write!(text, "\n{}:\n", group.title);
        for flag in group.flags {
            let [name, old @ ..] = flag.names else { continue };
            let _ = match flag.treatment {
                Treatment::Set(_) => {
                    writeln!(text, "  --{name} '{}'\n    {}", flag.default, flag.help)
                }
                Treatment::Noted(why) => writeln!(text, "  --{name}\n    No effect: {why}."),
                Treatment::Refused { why, .. } => writeln!(text, "  --{name}\n    Refused: {why}."),
            };
            if !old.is_empty() {
                let _ = writeln!(text, "    Also: --{}", old.join(", --"));
            }
        }
    }
    text
}
