//! What happens when this member must stop: report once, then never acknowledge again.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Called once with the reason when this member must stop serving at once: a disk error, a
/// corrupt record, consensus that stopped by itself. May be called on any thread; it should log
/// and end the process, and must not block.
pub type FatalHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Said by a member that finds itself removed.
pub(crate) const REMOVED: &str = "the member has been permanently removed from the cluster: \
                                  its data is of no use any more; to bring the machine back, \
                                  add it as a new member and start it with an empty data directory";

/// The hook and whether it was called.
#[derive(Clone)]
pub(crate) struct Fatal {
    inner: Arc<(FatalHook, AtomicBool)>,
}

impl Fatal {
    pub(crate) fn new(hook: FatalHook) -> Self {
        Self { inner: Arc::new((hook, AtomicBool::new(false))) }
    }

    /// Reports `error` unless something was reported before; gives it back as the I/O error that
    /// openraft's storage traits ask for.
    pub(crate) fn report(&self, error: &(dyn std::error::Error + 'static)) -> std::io::Error {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        self.report_text(&text);
        std::io::Error::other(text)
    }

    /// As [`Fatal::report`], for what is no error value.
    pub(crate) fn report_text(&self, text: &str) {
        if !self.inner.1.swap(true, Ordering::SeqCst) {
            tracing::error!(error = text, "this member must stop");
            (self.inner.0)(text);
        }
    }

    /// Something fatal happened.
    pub(crate) fn tripped(&self) -> bool {
        self.inner.1.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fatal").field("tripped", &self.tripped()).finish_non_exhaustive()
    }
}
