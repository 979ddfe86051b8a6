//! Passwords from a terminal, which then shows nothing, or from standard input.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::exit::{Exit, FAILED};

/// A terminal without echo; dropping it brings the echo back.
struct Silent(Option<Termios>);

impl Silent {
    fn new() -> io::Result<Self> {
        let input = io::stdin();
        if !input.is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(&input)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &silent)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

fn line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks at the terminal.
///
/// # Errors
/// There is nothing to read.
pub(super) fn prompt(text: &str) -> Result<String, Exit> {
    let asked = || {
        let mut out = io::stdout();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        let silent = Silent::new()?;
        let answer = line();
        drop(silent);
        out.write_all(b"\n")?;
        answer
    };
    asked().map_err(|error| Exit::args(format!("failed to ask password: {error}")))
}

/// The password of `name`: asked for twice, or the first word of standard input.
///
/// # Errors
/// It is empty, or the two differ.
pub(super) fn ask(name: &str, interactive: bool) -> Result<String, Exit> {
    if !interactive {
        let line = line().map_err(|error| Exit::new(FAILED, error.to_string()))?;
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let first = prompt(&format!("Password of {name}: "))?;
    if first.is_empty() {
        return Err(Exit::args("empty password"));
    }
    let second = prompt(&format!("Type password of {name} again for confirmation: "))?;
    if first != second {
        return Err(Exit::args("given passwords are different"));
    }
    Ok(first)
}
