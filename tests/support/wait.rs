//! Waiting for conditions, always with a deadline.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// Looks at `condition` until it answers `Ok`; fails with its last error after `limit`.
pub(crate) async fn eventually<T, F, Fut>(
    what: &str,
    limit: Duration,
    mut condition: F,
) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => {
                bail!("{what}: not within {limit:?}; last: {error:#}")
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// The same for code without a runtime.
pub(crate) fn eventually_blocking<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => {
                bail!("{what}: not within {limit:?}; last: {error:#}")
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
