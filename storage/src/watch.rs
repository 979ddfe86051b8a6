//! Which watcher gets which event. No channels here: who sends is the server's business.
//!
//! | item | what |
//! |---|---|
//! | `EventRing` | the latest events, shared by all watchers |
//! | [`WatcherSet`] | the watchers that an event's key concerns |
//! | [`Filters`] | kinds of events a watcher does not want |
//! | [`fragments`] | a long answer in parts that fit a message |

mod interval;
mod message;
mod ring;
mod set;

pub(crate) use self::ring::EventRing;
pub use self::{
    message::{Filters, encoded_event_bytes, fragments},
    set::WatcherSet,
};
