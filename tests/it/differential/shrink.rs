//! Shortens a failing trace by leaving out steps: first large parts, then single steps.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Failure, step::Step};

/// Time spent on shortening; what is left then is shown as it is.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The shortest failing trace found, as its requests.
pub(crate) struct Shortest(Failure);

impl fmt::Display for Shortest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.0.difference)?;
        writeln!(formatter, "after these requests to an empty server, the last one differing:")?;
        self.0.sent.iter().try_for_each(|request| writeln!(formatter, "  {request}"))
    }
}

/// Leaves out steps of `trace` as long as `run` still fails.
pub(crate) fn shortest(
    mut trace: Vec<Step>,
    mut failure: Failure,
    mut run: impl FnMut(&[Step]) -> Result<Option<Failure>>,
) -> Result<Shortest> {
    let start = Instant::now();
    trace.truncate(failure.index + 1);
    let mut part = (trace.len() / 2).max(1);
    loop {
        let mut removed = false;
        let mut at = 0;
        while at < trace.len() {
            if start.elapsed() > TIME_LIMIT {
                return Ok(Shortest(failure));
            }
            let end = (at + part).min(trace.len());
            let shorter = [&trace[..at], &trace[end..]].concat();
            match run(&shorter)? {
                Some(found) => {
                    trace = shorter;
                    trace.truncate(found.index + 1);
                    failure = found;
                    removed = true;
                }
                None => at = end,
            }
        }
        if part == 1 && !removed {
            return Ok(Shortest(failure));
        }
        part = (part / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::differential::step::{Method, Transport};

    fn call(number: usize) -> Step {
        let body = json!({ "number": number });
        Step::Call { transport: Transport::Json, method: Method::Put, body }
    }

    #[test]
    fn only_the_steps_that_matter_are_left() {
        // Fails at the first 90 after a 7 and a 41.
        let run = |trace: &[Step]| {
            let index = trace.iter().enumerate().position(|(index, step)| {
                let before = &trace[..index];
                *step == call(90) && before.contains(&call(7)) && before.contains(&call(41))
            });
            Ok(index.map(|index| Failure {
                index,
                difference: "differs".to_owned(),
                sent: trace[..=index].iter().map(ToString::to_string).collect(),
            }))
        };
        let trace: Vec<Step> = (0..100).map(call).collect();
        let failure = run(&trace).ok().flatten().expect("fails");
        let Shortest(shortest) = shortest(trace, failure, run).expect("runs");
        let want: Vec<String> = [7, 41, 90].map(|number| call(number).to_string()).to_vec();
        assert_eq!(shortest.sent, want);
    }
}
